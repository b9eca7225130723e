"""The `serve` section."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from steper_ray.engines.settings import EngineConfig
from steper_ray.run.section import EnvironmentName, LocalPath, Section


class ServeConfig(Section):
    """The server."""

    model: LocalPath = ""
    """Folder of the model to serve; empty serves the run's student."""
    host: str = "127.0.0.1"
    """Address to listen on; a public one needs API keys, or `open`."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    engine: EngineConfig | None = None
    """The engines of the server, where they differ from the `engine` section, with the keys that do."""
    tool_parser: str = ""
    """vLLM's parser of the plain model's tool calls, such as `hermes`; empty: requests with tools get no
    calls."""
    llm_replicas: PositiveInt = 1
    """Replicas of the LLM. With several, a request goes to the one that has cached most of its prompt."""
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
    """File of API keys, hashed, with their rates; `steper serve --new-key NAME` adds one. Read again when
    it changes."""
    keys_env: EnvironmentName | Literal[""] = ""
    """Environment variable with API keys, `name=key,name=key`; read when the server starts."""
    requests_per_minute: PositiveInt | None = None
    """Requests a minute allowed to each key, over all ingresses, unless the keys file sets another limit
    for the key. A batch is one request (see `max_batch`)."""
    open: bool = False
    """Whether the server may listen on a public address without API keys, so that anyone may ask."""
    cors_origins: tuple[str, ...] = ()
    """Origins of other web pages whose scripts may call the API, such as `https://example.org`."""
    refuse_unsupported: bool = False
    """Whether an answer that is not supported (see `supported` in the API) is replaced by "not found in the
    corpus"; its steps are shown as they are."""
    max_question_chars: PositiveInt = 2000
    """Largest accepted length of a question, in characters."""
    max_body_bytes: PositiveInt = 1_000_000
    """Largest accepted size of a request body, in bytes."""
    max_batch: PositiveInt = 64
    """Largest number of questions in one batch."""
    max_requested_passages_per_step: PositiveInt = 20
    """Largest number of passages per step (k) that a request may ask for."""
    max_requested_steps: PositiveInt = 10
    """Largest number of steps (S) that a request may ask for."""
    max_concurrent: PositiveInt | None = None
    """Limit of questions in progress in one ingress; further ones are refused with status 503. By default
    the ingresses share twice what the engines run at the same time."""
    request_timeout_s: PositiveFloat = 300.0
    """Deadline of a request in seconds; before it, work that a dead replica lost is retried."""
    batch_timeout_s: PositiveFloat | None = None
    """Deadline of a batch in seconds, at which it returns what is answered; `request_timeout_s` by
    default."""
    passages_per_step: PositiveInt | None = None
    """Passages per step (k) instead of those that the student was trained with."""
    max_steps: PositiveInt | None = None
    """Largest number of steps (S) instead of the one that the student was trained with."""

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
