"""Step-wise knowledge distillation of multi-step retrieval reasoning, on Ray (StepER, EMNLP 2025).

The names in `__all__` are the public interface; docs/python-api.md shows each. A name is imported when it
is first used, so that `import steper_ray` loads no library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from steper_ray.chains.build import build_chains
    from steper_ray.chains.rows import read_chains
    from steper_ray.evaluation.evaluate import evaluate
    from steper_ray.reasoning.loop import reason
    from steper_ray.retrieval import open_retriever
    from steper_ray.run.folder import RunFolder
    from steper_ray.run.loading import load_config
    from steper_ray.selection.examples import read_examples
    from steper_ray.selection.select import select_examples
    from steper_ray.training.train import train

__version__ = "0.1.0"

__all__ = [
    "RunFolder",
    "build_chains",
    "evaluate",
    "load_config",
    "open_retriever",
    "read_chains",
    "read_examples",
    "reason",
    "select_examples",
    "train",
]

_MODULES: Final = {
    "RunFolder": "run.folder",
    "build_chains": "chains.build",
    "evaluate": "evaluation.evaluate",
    "load_config": "run.loading",
    "open_retriever": "retrieval",
    "read_chains": "chains.rows",
    "read_examples": "selection.examples",
    "reason": "reasoning.loop",
    "select_examples": "selection.select",
    "train": "training.train",
}
"""Public name → the module that defines it."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
