"""The `serve` section, and how the served model is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from steper_ray.models import carried_settings, reasoning_for
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.section import EnvironmentName, Section

if TYPE_CHECKING:
    from steper_ray.config import RunConfig


class ServeConfig(Section):
    """The server."""

    model: str = ""
    """Folder of the model to serve; empty serves the run's student."""
    host: str = "127.0.0.1"
    """Address to listen on; a public one needs API keys, or `open`."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    engines: PositiveInt = 1
    """Replicas of the LLM; from two on, requests go to the one that holds most of their prefix."""
    max_engines: PositiveInt | None = None
    """With it the number of LLM replicas follows the load, from `engines` up to it; likewise below."""
    retrievers: PositiveInt = 1
    """Replicas of the retriever."""
    max_retrievers: PositiveInt | None = None
    """Most replicas of the retriever."""
    retriever_cpus: NonNegativeFloat = 0.1
    """CPU cores each retriever reserves in Ray."""
    ingresses: PositiveInt = 1
    """Replicas of the ingress that runs the reasoning loop."""
    max_ingresses: PositiveInt | None = None
    """Most replicas of the ingress."""
    ingress_cpus: NonNegativeFloat = 0.1
    """CPU cores each ingress reserves in Ray."""
    keys_file: str = ""
    """File of API keys, hashed, with their rates; `steper serve --new-key NAME` adds one. Read again when
    it changes."""
    keys_env: EnvironmentName | Literal[""] = ""
    """Environment variable with API keys, `name=key,name=key`; read when the server starts."""
    requests_per_minute: PositiveInt | None = None
    """Most requests of a key a minute, over all ingresses, where the keys file names no other. A batch is
    one request (see `max_batch`)."""
    open: bool = False
    """Whether anyone who reaches a public address may ask: no keys are demanded to listen on it."""
    cors_origins: tuple[str, ...] = ()
    """Other web pages whose scripts may call the API, as `https://example.org`; none by default."""
    max_question_chars: PositiveInt = 2000
    """Longest question accepted, in characters."""
    max_body_bytes: PositiveInt = 1_000_000
    """Largest request body accepted."""
    max_batch: PositiveInt = 64
    """Most questions in one batch."""
    most_passages_per_step: PositiveInt = 20
    """Largest k that a request may ask for."""
    most_steps: PositiveInt = 10
    """Largest S that a request may ask for."""
    max_concurrent: PositiveInt | None = None
    """Questions that an ingress works on at a time; one more is told to come back later. By default the
    ingresses share twice what the engines run at a time."""
    request_timeout_s: PositiveFloat = 300.0
    """Seconds after which a request is given up; until then it is tried again when a replica dies."""
    passages_per_step: PositiveInt | None = None
    """Overrides the k that the student was trained with."""
    max_steps: PositiveInt | None = None
    """Overrides the S that the student was trained with."""

    @property
    def routes_by_prefix(self) -> bool:
        """Whether there may be several LLMs to choose from."""
        return max(self.engines, self.max_engines or 0) > 1


def served_model(config: "RunConfig") -> str:
    """The model that the run file says to serve."""
    return config.serve.model or str(config.student_dir)


def places(config: "RunConfig") -> int:
    """Questions that one ingress works on at a time."""
    if config.serve.max_concurrent is not None:
        return config.serve.max_concurrent
    held = 2 * config.serve.engines * config.engine.max_num_seqs
    return max(1, held // config.serve.ingresses)


@dataclass(frozen=True, slots=True)
class Served:
    """How the model is asked, beside how it was trained to be asked."""

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


def serving_settings(config: "RunConfig", corpus_version: str) -> Served:
    """How the model is asked; raises InputError for settings that cannot be used."""
    model = served_model(config)
    carried = carried_settings(model)
    trained, trained_version = carried or (reasoning_for(config, model), corpus_version)
    update = {
        name: value
        for name in ("passages_per_step", "max_steps")
        if (value := getattr(config.serve, name)) is not None
    }
    return Served(trained, trained_version, trained.model_copy(update=update), corpus_version)
