"""The `engine` section (vLLM) and the settings of an OpenAI-compatible endpoint."""

import json
import math
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from steper_ray.run.section import EnvironmentName, LocalPath, Section

REVISIONS: Final = ("revision", "tokenizer_revision")
"""vLLM's engine arguments for the revision of a model; settings beside its name say it."""


_SAMPLING: Final = "set temperature and top_p beside the endpoint, or send_sampling"


_STEP: Final = "set reasoning.max_step_tokens, max_reasoning_tokens and limit_parameter"


SAID_ELSEWHERE: Final = {
    "model": "set teacher",
    "prompt": "the frameworks make it",
    "messages": "the frameworks make them",
    "stop": "set send_stop",
    "max_tokens": _STEP,
    "max_completion_tokens": _STEP,
    "temperature": _SAMPLING,
    "top_p": _SAMPLING,
    "seed": _SAMPLING,
    "logprobs": "it is asked for where the endpoint gives any",
    "n": "set samples",
    "stream": "replies are read whole",
}
"""Parameters of a request that settings or the code give → where they are said."""


_TENSOR: Final = "tensor_parallel_size"


_PIPELINE: Final = "pipeline_parallel_size"


_SIZES: Final = (_TENSOR, _PIPELINE, "data_parallel_size")
"""vLLM's engine arguments whose product is the number of an engine's processes, each with a GPU."""


AcceleratorType = Annotated[str, Field(pattern=r"^[\w.-]+$")]
"""A kind of GPU by the name that Ray has for it."""


class EngineConfig(Section):
    """The vLLM engines of teacher, evaluation and server."""

    replicas: PositiveInt | tuple[PositiveInt, PositiveInt] | Literal["auto"] = 1
    """Engines that work side by side on one dataset: a number, or the least and the most, `[1, 8]`, between
    which their number follows the room on the cluster; `auto` is from one to as many as have work."""
    cpus: NonNegativeFloat = 1.0
    """CPU cores each engine reserves in Ray."""
    gpus: NonNegativeFloat = 0.0
    """GPUs each engine reserves in Ray: `args.tensor_parallel_size` × `args.pipeline_parallel_size`, or a
    part of one."""
    accelerator_type: AcceleratorType | None = None
    """Kind of the GPUs as Ray calls it, `H100`; null takes any."""
    resources: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Custom resources of Ray that each engine reserves: name → amount."""
    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels that the nodes of each engine must have: name → value, with Ray's operators (`!in(spot)`)."""
    max_restarts: NonNegativeInt = 10
    """Times that engines are started again in place of ones that died, before the stage stops; those of
    nodes that were taken away after a notice (preemption) are not counted."""
    max_num_seqs: PositiveInt = 64
    """Requests an engine runs at a time."""
    dtype: str = "auto"
    """Type of weights and activations; `auto` takes the model's own."""
    cpu_kv_cache_gib: PositiveInt = 1
    """Memory for keys and values on CPU, in GiB (on GPUs: args.gpu_memory_utilization)."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Any other vLLM engine argument, passed through."""

    @property
    def min_replicas(self) -> int:
        """Engines that a stage needs to start."""
        if isinstance(self.replicas, tuple):
            return self.replicas[0]
        return 1 if self.replicas == "auto" else self.replicas

    @property
    def max_replicas(self) -> int | None:
        """Engines that a stage has at most; None is as many as have work."""
        if isinstance(self.replicas, tuple):
            return self.replicas[1]
        return None if self.replicas == "auto" else self.replicas

    @property
    def tensor_size(self) -> int:
        """Parts that each layer is divided into."""
        size: int = self.args.get(_TENSOR) or 1
        return size

    @property
    def pipeline_size(self) -> int:
        """Parts that the layers are divided into, one after the other."""
        size: int = self.args.get(_PIPELINE) or 1
        return size

    @property
    def size(self) -> int:
        """Processes that compute one engine's model together."""
        return math.prod(self.args.get(name) or 1 for name in _SIZES)

    @model_validator(mode="after")
    def _gpus_are_those_of_its_processes(self) -> "EngineConfig":
        if self.min_replicas > (self.max_replicas or self.min_replicas):
            raise ValueError("replicas: the least number of engines is above the most")
        if self.gpus > 1 and not self.gpus.is_integer():
            raise ValueError(
                f"gpus: {self.gpus:g} cannot be placed; set whole GPUs, or a part of one (below 1)"
            )
        for name in _SIZES:
            value = self.args.get(name, 1)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"args.{name} must be a whole number above 0, got {value!r}")
        if self.gpus and self.size != max(1, self.gpus):
            raise ValueError(
                f"gpus: {self.gpus:g} are reserved, and args say {self.size} (tensor_parallel_size × "
                f"pipeline_parallel_size); set gpus: {self.size}"
            )
        if self.pipeline_size > 1 and self.gpus and self.min_replicas != self.max_replicas:
            raise ValueError(
                "replicas: engines whose layers are divided (pipeline_parallel_size) need a fixed number"
            )
        if self.accelerator_type is not None and not self.gpus:
            raise ValueError("accelerator_type is for engines on GPUs; set gpus")
        return self

    @field_validator("args")
    @classmethod
    def _is_said_once(cls, args: dict[str, Any]) -> dict[str, Any]:
        if "hf_token" in args:
            raise ValueError(
                "hf_token is not for the run file; put the token into the environment variable that "
                "hub.token_env names"
            )
        if "trust_remote_code" in args:
            raise ValueError(
                "set hub.trust_remote_code instead of trust_remote_code: it holds for tokenizers and "
                "training too"
            )
        for name in REVISIONS:
            if name in args:
                raise ValueError(
                    f"set build.revision, or owner/name@revision in eval.models, instead of {name}: it "
                    "belongs to one model"
                )
        return args


def _address(url: str) -> str:
    """The URL unchanged; raises ValueError for one that no request could be sent to."""
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, or too large
        complete = False
    if not complete:
        raise ValueError("expected an address; write it as http://localhost:8000/v1")
    return url


class EndpointConfig(Section):
    """An OpenAI-compatible endpoint."""

    base_url: Annotated[str, AfterValidator(_address)]
    """Its address, up to and with `/v1`."""
    api: Literal["completions", "chat"] = "completions"
    """`completions` continues a prompt exactly; `chat` is for endpoints that have nothing else."""
    api_key_env: EnvironmentName = "OPENAI_API_KEY"
    """Environment variable with the key, read where requests are made; the key is written nowhere."""
    tokenizer: LocalPath | None = None
    """Model folder or Hub name whose tokenizer counts prompt tokens; null takes 3 characters for one."""
    concurrency: PositiveInt = 64
    """Requests at a time, of each actor."""
    requests_per_minute: PositiveFloat | None = None
    """Most requests a minute, of each actor; null does not limit them."""
    max_retries: NonNegativeInt = 5
    """Times a request is made again after 429, 5xx, a lost connection, or an answer that is none."""
    timeout_seconds: PositiveFloat = 120.0
    """Longest wait for one answer."""
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Parameter by which a request says its limit of tokens; reasoning models behind `chat` want
    `max_completion_tokens`."""
    max_reasoning_tokens: NonNegativeInt = 0
    """Tokens above `reasoning.max_step_tokens` in that limit, for a thought that the endpoint counts with
    its reply."""
    send_stop: bool = True
    """Whether requests say which texts end a step; without, what comes after one is cut off here. False is
    for reasoning models that refuse them, or whose replies begin with a thought of several lines."""
    send_sampling: bool = True
    """Whether requests say temperature, top_p and seed; reasoning models refuse them."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Other parameters of each request, passed through, as `reasoning_effort: low`."""

    @field_validator("extra_body")
    @classmethod
    def _is_not_said_elsewhere(cls, extra: dict[str, Any]) -> dict[str, Any]:
        for name in extra:
            if name in SAID_ELSEWHERE:
                raise ValueError(f"{name} is no extra parameter; {SAID_ELSEWHERE[name]}")
        try:
            json.dumps(extra, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(f"cannot be sent as JSON ({error})") from None
        return extra

    @model_validator(mode="after")
    def _has_a_limit(self) -> "EndpointConfig":
        if self.api == "completions" and self.limit_parameter != "max_tokens":
            raise ValueError("limit_parameter: completions take max_tokens; set api: chat")
        return self
