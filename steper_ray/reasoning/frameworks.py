"""Reasoning frameworks by name: how prompts are laid out and replies are read.

A new one is a module that satisfies `Framework`, a line here, and a YAML of demonstrations.
"""

from typing import Final

from steper_ray.errors import InputError
from steper_ray.reasoning import ircot, react, self_ask
from steper_ray.reasoning.framework import Framework
from steper_ray.section import did_you_mean

FRAMEWORKS: Final[dict[str, Framework]] = {"ircot": ircot, "self_ask": self_ask, "react": react}


def framework_named(name: str) -> Framework:
    """The framework of a name; raises InputError with the nearest name for an unknown one."""
    if name not in FRAMEWORKS:
        hint = did_you_mean(name, FRAMEWORKS) or f"choose one of {', '.join(FRAMEWORKS)}"
        raise InputError(f"reasoning.framework: no framework is called {name!r}; {hint}")
    return FRAMEWORKS[name]
