"""How the served model is asked: as it was trained, and where the server or a request deviates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.selection.abilities import STEPER, AbilityScheme
from steper_ray.serving.settings import ServeConfig


@dataclass(frozen=True, slots=True)
class ServingReasoning:
    """Reasoning settings as trained and as served."""

    trained: ReasoningConfig
    trained_version: str
    """Version of the corpus that the model was trained with."""
    settings: ReasoningConfig
    """As served."""
    corpus_version: str
    """Version of the corpus that the server searches."""
    scheme: AbilityScheme = STEPER
    """Names the ability of each step of an answer."""

    def with_changes(self, changes: Mapping[str, Any]) -> ReasoningConfig:
        """Reasoning settings of a request; raises pydantic's ValidationError.

        changes: any of framework, passages_per_step, max_steps. Another framework comes with its own
            instruction and cue and no demonstrations: the model's are in the form of its own framework.
        """
        if not changes:
            return self.settings
        if changes.get("framework", self.settings.framework) == self.settings.framework:
            return self.settings.model_copy(update=dict(changes))
        own = {"framework", "instruction", "cue", "demonstrations"}
        changed = ReasoningConfig.model_validate(
            self.settings.model_dump(exclude=own) | dict(changes)
        )
        return complete_reasoning(changed)

    def overrides(self, settings: ReasoningConfig) -> dict[str, Any]:
        """Every deviation from the training: {name: {"trained": …, "served": …}}."""
        deviations: dict[str, Any] = {}
        for name in ("framework", "passages_per_step", "max_steps"):
            trained, served = getattr(self.trained, name), getattr(settings, name)
            if trained != served:
                deviations[name] = {"trained": trained, "served": served}
        if self.trained_version != self.corpus_version:
            deviations["corpus_version"] = {
                "trained": self.trained_version,
                "served": self.corpus_version,
            }
        return deviations


def serving_reasoning(
    serve: ServeConfig,
    trained: ReasoningConfig,
    trained_version: str,
    corpus_version: str,
    scheme: AbilityScheme = STEPER,
) -> ServingReasoning:
    """Reasoning settings as trained, and with the overrides of the `serve` section.

    trained_version, corpus_version: of the corpus, in training and now
    """
    update = {
        name: value
        for name in ("passages_per_step", "max_steps")
        if (value := getattr(serve, name)) is not None
    }
    return ServingReasoning(
        trained, trained_version, trained.model_copy(update=update), corpus_version, scheme
    )
