"""Reasoning frameworks by name: how prompts are laid out and replies are read."""

from typing import Final

from steper_ray.errors import InputError
from steper_ray.reasoning.frameworks import ircot, react, self_ask
from steper_ray.reasoning.frameworks.protocol import Framework
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.section import did_you_mean

FRAMEWORKS: Final[dict[str, Framework]] = {"ircot": ircot, "self_ask": self_ask, "react": react}


def cue_of(settings: ReasoningConfig) -> str:
    """The cue of a layout: `reasoning.cue`, or the framework's own; empty where its layout has none."""
    return framework_named(settings.framework).CUE if settings.cue is None else settings.cue


def framework_named(name: str) -> Framework:
    """The framework of a name; raises InputError with the nearest name for an unknown one."""
    if name not in FRAMEWORKS:
        hint = did_you_mean(name, FRAMEWORKS) or f"choose one of {', '.join(FRAMEWORKS)}"
        raise InputError(f"reasoning.framework: no framework is called {name!r}; {hint}")
    return FRAMEWORKS[name]
