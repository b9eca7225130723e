"""A vLLM engine that many chains share: each step is a request of its own, batched continuously.

vLLM is imported, and the engine started, in the actor that uses it. On CPU the engine binds no
cores, so that several can live on one host.
"""

import dataclasses
import os
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pydantic import ValidationError

from steper_ray.engines.protocol import GREEDY, Generation, Sampling
from steper_ray.engines.replies import UNFINISHED, checked_logprob, checked_text, finish_reason
from steper_ray.engines.settings import REVISIONS, EngineConfig
from steper_ray.errors import EngineDiedError, InputError, RowError, behind
from steper_ray.models.hub import explained, use_hub
from steper_ray.models.loading import load_tokenizer
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.ray_runtime.placement import spans_nodes
from steper_ray.reasoning.encoder import CountsTokens, PromptEncoder
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.section import did_you_mean, first_reason
from steper_ray.text import short_message

SHARE: Final = 0.9
"""Share of its part of a GPU's memory that an engine takes, as vLLM's own default is of a whole GPU."""


class VLLMEngine(CountsTokens):
    """One running vLLM engine; create it inside a running event loop."""

    def __init__(
        self,
        model: str,
        config: EngineConfig,
        reasoning: ReasoningConfig,
        hub: HubConfig = DEFAULTS,
        revision: str | None = None,
    ) -> None:
        """Start the engine.

        revision: of a model on the Hub; None is its `main`

        Raises InputError if the model cannot be had, if vLLM refuses an argument, if the context is too
        short for the prompts, or for `reasoning.chat` without a chat template.
        """
        use_hub(hub)
        self._encoder = load_encoder(model, config, reasoning, hub, revision)
        prepare_process(config)
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = {"model": model, **engine_arguments(config, hub)}
        if spans_nodes(config):  # vLLM starts its workers in the placement group of this actor
            arguments.setdefault("distributed_executor_backend", "ray")
        if revision is not None:
            arguments |= dict.fromkeys(REVISIONS, revision)
        self._seeded = takes_seeds(config)
        with engine_starts(model, hub):
            self._llm: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        try:
            check_context(model, self._llm, reasoning)
        except InputError:
            self.shutdown()
            raise

    async def generate(
        self, prompt: Prompt, *, stop: Sequence[str], max_tokens: int, sampling: Sampling = GREEDY
    ) -> Generation:
        """Continue a prompt up to a text of `stop`, the end of text, or `max_tokens`.

        Raises EngineDiedError if the engine died, RowError if it refuses the prompt.
        """
        ids = self._encoder.encode(prompt)
        return await self.generate_after(ids, stop=stop, max_tokens=max_tokens, sampling=sampling)

    async def generate_after(
        self,
        ids: list[int],
        *,
        stop: Sequence[str],
        max_tokens: int,
        sampling: Sampling = GREEDY,
    ) -> Generation:
        """`generate` for a prompt that is encoded already (by a `PromptEncoder` of the same model)."""
        final = None
        async for output in run_request(
            self._llm,
            ids,
            stop=stop,
            max_tokens=max_tokens,
            sampling=sampling,
            seeded=self._seeded,
        ):
            final = output
        return read_output(final)

    def shutdown(self) -> None:
        """Stop the engine and its process."""
        self._llm.shutdown()


def load_encoder(
    model: str,
    config: EngineConfig,
    reasoning: ReasoningConfig,
    hub: HubConfig = DEFAULTS,
    revision: str | None = None,
) -> PromptEncoder:
    """The encoder of a model's prompts, with the tokenizer that training takes, or `args.tokenizer`.

    Raises InputError if the tokenizer cannot be had, or its chat template cannot be used.
    """
    named = config.args.get("tokenizer")
    tokenizer = load_tokenizer(named or model, hub, None if named else revision)
    return PromptEncoder(tokenizer, reasoning.chat, reasoning.template_date)


def prepare_process(config: EngineConfig) -> None:
    """Set the environment that vLLM reads when it is imported, and bind its engines to this process.

    A variable that is set already stays as it is.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if not config.gpus:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config.cpu_kv_cache_gib))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # the engine's process computes by itself; vLLM's default adds a worker process, which
        # imports everything once more (a third of the start)
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from steper_ray.engines.engine_process import bind_engines

    bind_engines()


def engine_arguments(config: EngineConfig, hub: HubConfig) -> dict[str, Any]:
    """vLLM's engine arguments but for the model; raises InputError for one that vLLM does not have."""
    from vllm import AsyncEngineArgs

    known = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
    for name in config.args:
        if name not in known:
            hint = did_you_mean(name, known) or "see vLLM's AsyncEngineArgs"
            raise InputError(f"engine.args.{name}: vLLM has no such engine argument; {hint}")
    share = {"gpu_memory_utilization": SHARE * config.gpus} if 0 < config.gpus < 1 else {}
    return {
        **share,
        "dtype": config.dtype,
        "max_num_seqs": config.max_num_seqs,
        "enable_log_requests": False,
        "trust_remote_code": hub.trust_remote_code,
        **config.args,
    }


@contextmanager
def engine_starts(model: str, hub: HubConfig) -> Iterator[None]:
    """Turn the errors that `explained` knows, and vLLM's about an argument, into one InputError."""
    with explained(model, hub):
        try:
            yield
        except Exception as error:
            for cause in behind(error):
                if isinstance(cause, ValidationError):
                    reason = first_reason(cause)
                    raise InputError(f"engine: vLLM refuses its arguments: {reason}") from None
            raise


def takes_seeds(config: EngineConfig) -> bool:
    """Whether requests may have a seed.

    vLLM's CPU engine dies of a request with a seed whose prompt it takes in parts (0.29: "CPU Generator
    does not use offset").
    """
    return bool(config.gpus)


def check_context(model: str, llm: Any, reasoning: ReasoningConfig) -> None:
    """Raises InputError if a running engine's context is too short for the prompts."""
    context = llm.model_config.max_model_len
    needed = reasoning.max_prompt_tokens + reasoning.max_step_tokens
    if context < needed:
        raise InputError(
            f"{model}: its context of {context} tokens is shorter than "
            f"reasoning.max_prompt_tokens + max_step_tokens = {needed}; lower them"
        )


async def run_request(
    llm: Any,
    ids: list[int],
    *,
    stop: Sequence[str],
    max_tokens: int,
    sampling: Sampling,
    seeded: bool,
    streamed: bool = False,
    logprobs: bool = True,
) -> AsyncIterator[Any]:
    """Have an `AsyncLLM` write after tokens; one request of its continuous batch.

    Yields vllm's `RequestOutput`: the finished one, or with `streamed` one for each piece of text; without
    `logprobs` it has none, which spares their making. Ending the iteration early aborts the request.
    Raises RowError if the engine refuses the prompt, EngineDiedError if it died.

    seeded: whether the engine takes seeds (`takes_seeds`); without it the draws have none
    """
    from vllm import SamplingParams
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.exceptions import EngineDeadError

    parameters = SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed if seeded else None,
        max_tokens=max_tokens,
        stop=list(stop),
        logprobs=0 if logprobs else None,
        # without `streamed` nobody is woken for every token
        output_kind=RequestOutputKind.CUMULATIVE if streamed else RequestOutputKind.FINAL_ONLY,
    )
    prompt = {"prompt_token_ids": list(ids)}
    try:
        async for output in llm.generate(prompt, parameters, uuid.uuid4().hex):
            yield output
    except (VLLMClientError, ValueError) as error:
        raise RowError(
            f"the engine refuses the prompt: {short_message(error, longest=300)}"
        ) from None
    except EngineDeadError as error:
        raise EngineDiedError(str(error)) from error


def read_output(output: Any) -> Generation:
    """The generation in a finished request's last `RequestOutput`.

    Raises RowError for one that the engine gave up, and for text or log-probabilities that are none.
    """
    completion = output.outputs[0]
    if completion.finish_reason in UNFINISHED:
        raise RowError(f"the engine gave the request up ({completion.finish_reason})")
    total, tokens = completion.cumulative_logprob, len(completion.token_ids)
    return Generation(
        text=checked_text(completion.text),
        prompt_tokens=len(output.prompt_token_ids),
        generated_tokens=tokens,
        logprob_sum=None if total is None else checked_logprob(total, max(1, tokens)),
        cached_tokens=output.num_cached_tokens,
        finish_reason=finish_reason(completion.finish_reason),
    )
