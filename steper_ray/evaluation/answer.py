"""Questions answered by any model, through the one reasoning loop."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steper_ray.chains.teachers import model_reasoning
from steper_ray.models.folder import pinned

if TYPE_CHECKING:
    from steper_ray.chains.teachers import Reasoner
    from steper_ray.chains.usage import Progress
    from steper_ray.run.config import RunConfig
    from steper_ray.schema import Question


def answer(
    config: "RunConfig",
    model: str,
    questions: Sequence["Question"],
    out: Path,
    on_progress: "Progress | None" = None,
    *,
    revision: str | None = None,
) -> list[dict[str, Any]]:
    """Answer questions with a model into `out`; returns its chains as rows, ordered by id.

    A student is asked as its folder says, the teacher and others as `reasoning_for` says.

    revision: of a model on the Hub; None is its `main`
    """
    from steper_ray.chains.attempts import MissingAttempts
    from steper_ray.chains.rows import read_chains
    from steper_ray.chains.stream import write_chains

    write_chains(
        [MissingAttempts(question) for question in questions],
        out,
        reasoner=evaluated(config, model, revision),
        corpus=config.folder.corpus,
        log=config.folder.log("eval"),
        on_progress=on_progress,
    )
    return [asdict(chain) for chain in read_chains(out)]


def evaluated(config: "RunConfig", model: str, revision: str | None = None) -> "Reasoner":
    """A model under evaluation, and how it is asked."""
    from steper_ray.chains.teachers import Reasoner

    return Reasoner(
        model,
        model_reasoning(model, build=config.build, reasoning=config.reasoning),
        config.engine,
        hub=config.hub,
        revision=pinned(model, revision, config.hub),
    )
