"""The order of the layers (docs/architecture.md): no module imports one above it, lazily or for types."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import steper_ray
from tests.conftest import ROOT

LAYERS: Final = (
    "errors schema arrow files text sentences",
    "run.section",
    "*.settings",
    "run",
    "ray_runtime",
    "models",
    "tasks",
    "data",
    "retrieval",
    "engines.protocol reasoning",
    "engines",
    "chains",
    "selection",
    "training",
    "evaluation",
    "sweep",
    "planning",
    "reports",
    "serving",
    "toy",
    "pipeline",
    "cli __main__",
)
"""Lowest first; a longer name counts before a shorter one. Every `settings` module is a leaf."""
PACKAGE: Final = ROOT / "steper_ray"


def layer(module: str) -> int:
    """Index of a module's layer, from its name without the package's."""
    if module.endswith(".settings"):
        return LAYERS.index("*.settings")
    names = {name: at for at, group in enumerate(LAYERS) for name in group.split()}
    fitting = [name for name in names if module == name or module.startswith(f"{name}.")]
    assert fitting, f"{module} is in no layer; name it in LAYERS"
    return names[max(fitting, key=len)]


def modules() -> dict[str, Path]:
    """Every module by its name without the package's; the package itself is none of them."""
    paths = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    named = {
        ".".join(part for part in name.parts if part != "__init__"): paths[name] for name in paths
    }
    return {name: path for name, path in named.items() if name}


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it."""
    known = modules()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("steper_ray."):
            base = str(node.module).removeprefix("steper_ray.")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in known else base


@pytest.mark.parametrize("module", modules())
def test_nothing_is_imported_from_above(module: str) -> None:
    above = {name for name in imported(modules()[module]) if layer(name) > layer(module)}
    assert not above


def test_the_settings_of_a_run_load_no_library() -> None:
    """`steper_ray.run.config` has the sections and nothing else, so that every process may load it."""
    code = (
        "import sys, steper_ray.run.config\n"
        "heavy = {'torch', 'ray', 'vllm', 'lance', 'pyarrow', 'transformers', 'deepspeed', 'datasets'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []
    assert steper_ray.__version__
