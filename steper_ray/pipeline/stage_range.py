"""A range of stages (`index..eval`), and `steper run`, which runs one."""

from collections.abc import Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from steper_ray.errors import InputError
from steper_ray.pipeline.ledger import pending_stages, run_pending_stages
from steper_ray.pipeline.stages import ORDER, STAGES

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig

SERVE: Final = "serve"
"""May stand at the end of a range: the student is then served until Ctrl-C."""


DEFAULT: Final = "index..eval"


def stages_of(text: str) -> list[str]:
    """The stages of a range `a..b`, both included; of a single name that one.

    Without a name before the dots it begins with `index`, without one behind them it ends with `eval`.
    Raises InputError for names that are none, and for a range that runs backwards.
    """
    first, dots, last = text.partition("..")
    default_first, _, default_last = DEFAULT.partition("..")
    if dots:
        first, last = first or default_first, last or default_last
    else:
        last = first
    order = (*ORDER, SERVE)
    for name in (first, last):
        if name not in order:
            near = get_close_matches(name, order, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"the stages are {', '.join(order)}"
            raise InputError(f"{text}: no stage {name!r} of a range; {hint}")
    start, end = order.index(first), order.index(last)
    if end < start:
        raise InputError(f"{text}: {first} comes after {last}; write {last}..{first}")
    return list(order[start : end + 1])


def run_range(config: "RunConfig", text: str) -> None:
    """Run the stages of a range that are not up to date; serve the student at its end, if it has `serve`.

    Raises InputError and StageError as the stages do.
    """
    from steper_ray.pipeline.check import checked_session
    from steper_ray.pipeline.execute import prepare
    from steper_ray.serving.session import serve_until_interrupted

    names = stages_of(text)
    serves = names[-1] == SERVE
    stages: Sequence[str] = names[:-1] if serves else names
    prepare(config, stages)
    pending = pending_stages(stages, config)
    needs_ray = serves or any(STAGES[name].needs_ray(config) for name in pending)
    with checked_session(config) if needs_ray else nullcontext():
        run_pending_stages(stages, config)
        if serves:
            serve_until_interrupted(config)
