"""Settings and inputs of a server, unpacked from the run file."""

from dataclasses import dataclass, replace
from pathlib import Path

from steper_ray.engines.settings import EngineConfig
from steper_ray.models.settings import HubConfig
from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.serving.overrides import ServingReasoning
from steper_ray.serving.settings import ServeConfig


@dataclass(frozen=True, slots=True)
class LLMSpec:
    """What of a server its LLM depends on: another setting does not restart it."""

    model: str
    name: str
    """The model's name in the API."""
    engine: EngineConfig
    reasoning: ReasoningConfig
    hub: HubConfig
    max_output_tokens: int
    tool_parser: str
    stall_s: float


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """Settings and inputs of a server."""

    serve: ServeConfig
    engine: EngineConfig
    hub: HubConfig
    model: str
    """Model folder, or the name of a model on the Hub. The folder itself, as `corpus`: `student` is a link
    that moves when `steper train` runs again."""
    model_name: str
    """Name of the model in the API: every student of a run is `student`."""
    reasoning: ServingReasoning
    corpus: Path
    """Folder of the corpus itself: the link in the run folder moves when `steper index` runs again."""
    log: LaunchLog
    """Log that the replicas write to."""
    run: str
    """Name of the run in the names of its applications; see `applications.run_name`."""

    @property
    def llm(self) -> LLMSpec:
        """The part that is the LLM's."""
        return LLMSpec(
            self.model,
            self.model_name,
            self.engine,
            self.reasoning.settings,
            self.hub,
            self.serve.max_output_tokens,
            self.serve.tool_parser,
            self.serve.stall_s,
        )

    @property
    def places(self) -> int:
        """Limit of questions in progress in one ingress."""
        return ingress_places(self.serve, self.engine)

    def with_one_ingress(self) -> "ServerSpec":
        """The same server with a single replica that takes requests."""
        kind = "llm" if self.serve.fused else "ingress"
        fixed = {
            f"{kind}_replicas": 1,
            f"max_{kind}_replicas": None,
            "layout": self.serve.layout_name,
        }
        return replace(self, serve=self.serve.model_copy(update=fixed))


def ingress_places(serve: ServeConfig, engine: EngineConfig) -> int:
    """Limit of questions in progress in one replica that takes requests: `serve.max_concurrent`, else a
    share of twice what the engines run at the same time.
    """
    if serve.max_concurrent is not None:
        return serve.max_concurrent
    if serve.fused:
        return 2 * engine.max_num_seqs
    engines = max(serve.llm_replicas, serve.max_llm_replicas or 0)
    in_progress = 2 * engines * engine.max_num_seqs
    return max(1, in_progress // serve.ingress_replicas)
