"""Ability schemes: which ability each step of a chain teaches (StepER, section 3.2).

A scheme is data: statistics, losses and tables iterate over its `names`, in their order. To add one, write
its function and a line in `SCHEMES`; `select.abilities` chooses it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from steper_ray.errors import InputError


@dataclass(frozen=True, slots=True)
class AbilityScheme:
    """Abilities in order, and the rule that gives each step one of them."""

    name: str
    names: tuple[str, ...]
    """The abilities in the order of every table, array and metric over them."""
    of: Callable[[int, int], str]
    """`of(step, steps)`: the ability that step `step` (from 1) of a chain of `steps` teaches."""
    meanings: tuple[str, ...] = ()
    """What each ability is, for the data set's card."""

    def record(self) -> dict[str, object]:
        """JSON object for what was made with the scheme: `{"name": …, "names": […]}`."""
        return {"name": self.name, "names": list(self.names)}


def _steper(step: int, steps: int) -> str:
    if step == steps:
        return "agg"
    return "init" if step == 1 else "exp"


STEPER: Final = AbilityScheme(
    "steper",
    ("init", "exp", "agg"),
    _steper,
    (
        "reasoning initialization, the first of several steps",
        "reasoning expansion, the steps between",
        "reasoning aggregation, the last or only step",
    ),
)
"""Reasoning initialization, expansion and aggregation: the first, the middle and the last step."""

SCHEMES: dict[str, AbilityScheme] = {STEPER.name: STEPER}


def ability_scheme(name: str) -> AbilityScheme:
    """Scheme of this name.

    Raises InputError, which lists the names in SCHEMES, for any other name.
    """
    if name not in SCHEMES:
        raise InputError(
            f"select.abilities: no ability scheme is named {name!r}; choose one of "
            f"{', '.join(SCHEMES)}"
        )
    return SCHEMES[name]


def recorded_scheme(record: Mapping[str, object], where: object) -> AbilityScheme:
    """Scheme that a file recorded with `AbilityScheme.record`.

    Raises InputError, naming the file as `where`, if the scheme is missing here or has other abilities.
    """
    scheme = SCHEMES.get(str(record.get("name")))
    if scheme is None or scheme.record() != record:
        raise InputError(
            f"{where}: made with ability scheme {record.get('name')!r} of abilities {record.get('names')}; "
            f"known are {[known.record() for known in SCHEMES.values()]}. Use the version that made the "
            "file, or make the file again"
        )
    return scheme
