"""The `serve` section."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from steper_ray.run.section import EnvironmentName, LocalPath, Section


class ServeConfig(Section):
    """The server."""

    model: LocalPath = ""
    """Folder of the model to serve; empty serves the run's student."""
    host: str = "127.0.0.1"
    """Address to listen on; a public one needs API keys, or `open`."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    llm_replicas: PositiveInt = 1
    """Replicas of the LLM; from two on, requests go to the one that holds most of their prefix."""
    max_llm_replicas: PositiveInt | None = None
    """With it the number of LLM replicas follows the load, from `llm_replicas` up to it; likewise below."""
    retriever_replicas: PositiveInt = 1
    """Replicas of the retriever."""
    max_retriever_replicas: PositiveInt | None = None
    """Most replicas of the retriever."""
    retriever_cpus: NonNegativeFloat = 0.1
    """CPU cores each retriever reserves in Ray."""
    ingress_replicas: PositiveInt = 1
    """Replicas of the ingress that runs the reasoning loop."""
    max_ingress_replicas: PositiveInt | None = None
    """Most replicas of the ingress."""
    ingress_cpus: NonNegativeFloat = 0.1
    """CPU cores each ingress reserves in Ray."""
    keys_file: LocalPath = ""
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
    max_requested_passages_per_step: PositiveInt = 20
    """Largest k that a request may ask for."""
    max_requested_steps: PositiveInt = 10
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
        return max(self.llm_replicas, self.max_llm_replicas or 0) > 1
