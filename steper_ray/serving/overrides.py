"""How the served model is asked: as it was trained, and where the server or a request deviates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steper_ray.chains.teachers import model_reasoning
from steper_ray.models.student_settings import carried_settings
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.retrieval import corpus_version

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


def served_model(config: "RunConfig") -> str:
    """The model to serve: `serve.model`, else the run's student."""
    return config.serve.model or str(config.folder.student)


def places(config: "RunConfig") -> int:
    """Limit of questions in progress in one ingress."""
    if config.serve.max_concurrent is not None:
        return config.serve.max_concurrent
    held = 2 * config.serve.llm_replicas * config.engine.max_num_seqs
    return max(1, held // config.serve.ingress_replicas)


@dataclass(frozen=True, slots=True)
class ServingReasoning:
    """Reasoning settings as trained and as served."""

    trained: ReasoningConfig
    trained_version: str
    """Of the corpus."""
    served: ReasoningConfig
    corpus_version: str

    def asked(self, changes: Mapping[str, Any]) -> ReasoningConfig:
        """The settings with what a request changes; raises pydantic's ValidationError.

        changes: any of framework, passages_per_step, max_steps. Another framework comes with its own
            instruction and without demonstrations, which are written in the framework's form.
        """
        if not changes:
            return self.served
        if changes.get("framework", self.served.framework) == self.served.framework:
            return self.served.model_copy(update=dict(changes))
        own = {"framework", "instruction", "demonstrations"}
        settings = ReasoningConfig.model_validate(
            self.served.model_dump(exclude=own) | dict(changes)
        )
        return complete_reasoning(settings)

    def overrides(self, asked: ReasoningConfig) -> dict[str, Any]:
        """Every deviation from the training: {name: {"trained": …, "served": …}}."""
        found: dict[str, Any] = {}
        for name in ("framework", "passages_per_step", "max_steps"):
            trained, served = getattr(self.trained, name), getattr(asked, name)
            if trained != served:
                found[name] = {"trained": trained, "served": served}
        if self.trained_version != self.corpus_version:
            found["corpus_version"] = {
                "trained": self.trained_version,
                "served": self.corpus_version,
            }
        return found


def serving_settings(config: "RunConfig", corpus_version: str) -> ServingReasoning:
    """How the model is asked; raises InputError for settings that cannot be used."""
    model = served_model(config)
    carried = carried_settings(model)
    trained, trained_version = carried or (
        model_reasoning(model, build=config.build, reasoning=config.reasoning),
        corpus_version,
    )
    update = {
        name: value
        for name in ("passages_per_step", "max_steps")
        if (value := getattr(config.serve, name)) is not None
    }
    return ServingReasoning(
        trained, trained_version, trained.model_copy(update=update), corpus_version
    )


def serving_reasoning(config: "RunConfig") -> ServingReasoning:
    """`serving_settings` with the version of the corpus that is there."""
    return serving_settings(config, corpus_version(config.folder.corpus))
