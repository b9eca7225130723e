"""The `serve` section."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from steper_ray.engines.settings import EngineConfig
from steper_ray.run.section import EnvironmentName, LocalPath, Section

AccessLogFormat = Literal["text", "json", "none"]


class ServeConfig(Section):
    """The server."""

    model: LocalPath = ""
    """Folder of the model to serve; empty serves the run's student."""
    host: str = "127.0.0.1"
    """Address to listen on; a public one needs API keys, or `open`. Without either, a loopback address
    answers only requests to a loopback name (`localhost`, `127.0.0.1`)."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    route_prefix: str = Field(default="/", pattern=r"^/$|^(/[A-Za-z0-9._~-]+)+$")
    """Path under which the server answers, where other servers on the cluster have others."""
    engine: EngineConfig | None = None
    """The engines of the server, where they differ from the `engine` section, with the keys that do."""
    layout: Literal["fused", "apart"] | None = None
    """Whether each replica holds the LLM, the corpus and the reasoning loop (fused, the faster), or these
    are deployments that scale by themselves (apart). Null is fused unless retrievers or ingresses of their
    own are asked for."""
    tool_parser: str = ""
    """vLLM's parser of the plain model's tool calls, such as `hermes`; empty: requests with tools get no
    calls."""
    llm_replicas: PositiveInt = 1
    """Replicas of the LLM, or of everything where the layout is fused. With several apart ones, a request
    goes to the one that has cached most of its prompt; fused ones keep the requests of a session."""
    max_llm_replicas: PositiveInt | None = None
    """Upper bound for autoscaling the LLM replicas (lower bound: `llm_replicas`); null turns it off."""
    retriever_replicas: PositiveInt = 1
    """Replicas of the retriever."""
    max_retriever_replicas: PositiveInt | None = None
    """Upper bound for autoscaling the retriever replicas (lower bound: `retriever_replicas`)."""
    retriever_cpus: NonNegativeFloat = 0.1
    """CPU cores each retriever reserves in Ray."""
    ingress_replicas: PositiveInt = 1
    """Replicas of the ingress, which runs the reasoning loop."""
    max_ingress_replicas: PositiveInt | None = None
    """Upper bound for autoscaling the ingress replicas (lower bound: `ingress_replicas`)."""
    ingress_cpus: NonNegativeFloat = 0.1
    """CPU cores each ingress reserves in Ray."""
    keys_file: LocalPath = ""
    """File of API keys, hashed, with their limits; `steper serve --new-key NAME` adds one. Read again when
    it changes; its keys are revoked while it is missing or broken."""
    keys_env: EnvironmentName | Literal[""] = ""
    """Environment variable with API keys, `name=key,name=key`; read when the server starts."""
    requests_per_minute: PositiveInt | None = None
    """Requests a minute allowed to each key, over all ingresses, unless the keys file sets another limit
    for the key. Each question of a batch is one request."""
    max_key_share: float = Field(default=1.0, gt=0, le=1)
    """Largest share of an ingress's places that requests with one key may hold at a time, at least one
    place, unless the keys file sets another share for the key."""
    open: bool = False
    """Whether anyone may ask without an API key: on a public address, and under any host name."""
    access_log: AccessLogFormat = "text"
    """Lines of the access log, which has id, key owner, route, status, tokens and seconds of each request:
    text, JSON, or no log."""
    cors_origins: tuple[str, ...] = ()
    """Origins of other web pages whose scripts may call the API, such as `https://example.org`."""
    refuse_unsupported: bool = False
    """Whether an answer that is not supported (see `supported` in the API) is replaced by "not found in the
    corpus"; its steps are shown as they are."""
    max_question_chars: PositiveInt = 2000
    """Largest accepted length of a question, in characters."""
    max_body_bytes: PositiveInt = 1_000_000
    """Largest accepted size of a request body, in bytes."""
    body_timeout_s: PositiveFloat = 20.0
    """Seconds within which the body of a request must have come; it holds a place meanwhile."""
    max_batch: PositiveInt = 64
    """Largest number of questions in one batch."""
    max_requested_passages_per_step: PositiveInt = 20
    """Largest number of passages per step (k) that a request may ask for."""
    max_requested_steps: PositiveInt = 10
    """Largest number of steps (S) that a request may ask for."""
    max_output_tokens: PositiveInt = 2048
    """Largest number of tokens that the plain model writes in a chat, whatever the request asks for."""
    max_concurrent: PositiveInt | None = None
    """Limit of questions, searches and chats in progress in one ingress; further ones are refused with
    status 503. By default the ingresses share twice what the engines run at the same time."""
    request_timeout_s: PositiveFloat = 300.0
    """Deadline of a request in seconds; before it, work that a dead replica lost is retried."""
    stall_s: PositiveFloat = 60.0
    """Seconds without a token of any request, or of one search, after which a replica is taken to hang and
    is replaced."""
    batch_timeout_s: PositiveFloat | None = None
    """Deadline of a batch in seconds, at which it returns what is answered; `request_timeout_s` by
    default."""
    passages_per_step: PositiveInt | None = None
    """Passages per step (k) instead of those that the student was trained with."""
    max_steps: PositiveInt | None = None
    """Largest number of steps (S) instead of the one that the student was trained with."""

    @model_validator(mode="after")
    def _fits_its_layout(self) -> Self:
        if self.layout == "fused" and self.apart_keys:
            raise ValueError(
                f"layout: fused replicas have no {self.apart_keys[0]} of their own; set llm_replicas, or "
                "layout: apart"
            )
        return self

    @property
    def fused(self) -> bool:
        """Whether each replica holds everything."""
        if self.layout is not None:
            return self.layout == "fused"
        return not self.apart_keys

    @property
    def layout_name(self) -> Literal["fused", "apart"]:
        """The layout, chosen if need be."""
        return "fused" if self.fused else "apart"

    @property
    def apart_keys(self) -> list[str]:
        """The keys that only the `apart` layout has, where they are set to more than the least."""
        asked = {
            "retriever_replicas": self.retriever_replicas > 1,
            "max_retriever_replicas": self.max_retriever_replicas is not None,
            "ingress_replicas": self.ingress_replicas > 1,
            "max_ingress_replicas": self.max_ingress_replicas is not None,
        }
        return [name for name, said in asked.items() if said]

    @property
    def batch_seconds(self) -> float:
        """Deadline of a batch."""
        return self.batch_timeout_s or self.request_timeout_s

    @property
    def longest_seconds(self) -> float:
        """Longest deadline of any request."""
        return max(self.request_timeout_s, self.batch_seconds)

    @property
    def routes_by_prefix(self) -> bool:
        """Whether requests are routed by the prefix of their prompt: there may be several LLM replicas."""
        return max(self.llm_replicas, self.max_llm_replicas or 0) > 1
