"""An OpenAI-compatible endpoint as the engine that writes: a hosted model, or vLLM served elsewhere.

A step is asked for as a completion, which continues the prompt exactly as a local engine does with a base
model. Endpoints that only chat cannot be relied on to continue an assistant's turn: they are given the
whole prompt as a user's message and asked for what comes next. That is the one place where a prompt
reads differently; a chain has no confidence where the endpoint gives no log-probabilities.

Retries, backoff and `Retry-After` are the official client's. A reply that is no answer (broken JSON, no
choices) is retried as often. Then the question has failed: its chain carries the error, and a later build
asks it again.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from steper_ray.engines.protocol import GREEDY, Generation, Sampling
from steper_ray.engines.settings import EndpointConfig
from steper_ray.errors import InputError, RowError
from steper_ray.models.loading import load_tokenizer
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.text import short_message

if TYPE_CHECKING:
    from openai.types import Completion
    from openai.types.chat import ChatCompletion


logger = logging.getLogger(__name__)


NEXT_LINE: Final = (
    "Continue the text below. Write only what comes next, up to the end of its line.\n\n"
)


CHARACTERS_PER_TOKEN: Final = 3.0
"""For counting where no tokenizer is named; low, so that prompts are rather too short than refused."""


class EndpointEngine:
    """Writes steps through an endpoint; create it inside a running event loop."""

    def __init__(self, model: str, config: EndpointConfig, hub: HubConfig = DEFAULTS) -> None:
        """model: the name the endpoint knows it by.

        Raises InputError if no key is in the environment, or the tokenizer cannot be had.
        """
        import openai

        key = os.environ.get(config.api_key_env)
        if not key:
            raise InputError(
                f"{config.api_key_env} is not set where requests are made; put the endpoint's key there "
                "(any word, if it wants none)"
            )
        self._model, self._config = model, config
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=config.base_url,
            max_retries=config.max_retries,
            timeout=config.timeout_seconds,
        )
        self._encoder = _load_encoder(config.tokenizer, hub)
        self._open_requests = asyncio.Semaphore(config.concurrency)
        self._next_start = 0.0
        self._logprobs = True
        """Whether to ask for log-probabilities; no longer once the endpoint refuses."""

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt, by the named tokenizer or by its length."""
        if self._encoder is not None:
            return self._encoder.count_tokens(prompt)
        return _estimate_tokens(prompt.text)

    def count_text(self, text: str) -> int:
        """Tokens of a text by itself, counted in the same way."""
        return self._encoder.count_text(text) if self._encoder else _estimate_tokens(text)

    async def generate(
        self, prompt: Prompt, *, stop: Sequence[str], max_tokens: int, sampling: Sampling = GREEDY
    ) -> Generation:
        """Continue a prompt up to a text of `stop`, the end of text, or `max_tokens`.

        Raises RowError if the endpoint refuses the prompt or keeps failing, InputError if it refuses the
        key or does not know the model.
        """
        import openai

        async with self._open_requests:
            await self._wait_for_turn()
            try:
                options = {
                    "stop": list(stop),
                    "max_tokens": max_tokens,
                    **_sampling_options(sampling),
                }
                return await self._ask(prompt.text, options)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise InputError(
                    f"{self._config.base_url}: refuses the key in {self._config.api_key_env} "
                    f"({error.status_code})"
                ) from None
            except openai.NotFoundError:
                raise InputError(
                    f"{self._config.base_url}: does not know {self._model!r} or has no {self._config.api}; "
                    "check the model's name, base_url and api"
                ) from None
            except openai.APITimeoutError:
                raise RowError(
                    f"{self._config.base_url}: no answer within {self._config.timeout_seconds:g} s; "
                    "raise timeout_seconds, or lower concurrency"
                ) from None
            except openai.APIConnectionError as error:
                reason = short_message(error.__cause__ or error, longest=300)
                raise RowError(
                    f"{self._config.base_url}: cannot be reached ({reason}); check base_url, and that the "
                    "endpoint runs"
                ) from None
            except openai.APIError as error:
                message = short_message(f"{type(error).__name__}: {error}", longest=300)
                raise RowError(f"{self._config.base_url}: {message}") from None

    async def _ask(self, prompt: str, options: dict[str, Any]) -> Generation:
        import openai

        ask = self._complete if self._config.api == "completions" else self._chat
        for attempt in range(self._config.max_retries + 1):
            with_logprobs = self._logprobs
            try:
                return await ask(prompt, options)
            except openai.BadRequestError as error:
                if not with_logprobs or "logprobs" not in str(error):
                    raise
                self._logprobs = False
            except (json.JSONDecodeError, openai.APIResponseValidationError, _NoAnswerError):
                logger.warning(
                    "%s: no answer of an OpenAI endpoint; retry %d",
                    self._config.base_url,
                    attempt + 1,
                )
                await asyncio.sleep(min(8.0, 0.5 * 2**attempt))
        raise RowError(f"{self._config.base_url}: its answers are not those of an OpenAI endpoint")

    async def _complete(self, prompt: str, options: dict[str, Any]) -> Generation:
        if self._logprobs:
            options = {**options, "logprobs": 1}
        answer: Completion = await self._client.completions.create(
            model=self._model, prompt=prompt, **options
        )
        choice = _only_choice(answer)
        logprobs = choice.logprobs.token_logprobs if choice.logprobs else None
        return self._generation(prompt, choice.text, answer.usage, logprobs)

    async def _chat(self, prompt: str, options: dict[str, Any]) -> Generation:
        if self._logprobs:
            options = {**options, "logprobs": True}
        answer: ChatCompletion = await self._client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": NEXT_LINE + prompt}],
            **options,
        )
        choice = _only_choice(answer)
        written = (choice.message.content or "").lstrip("\n")
        begun = prompt.rsplit("\n", 1)[-1]  # the line that was to be continued, which chats repeat
        content = choice.logprobs.content if choice.logprobs else None
        logprobs = [token.logprob for token in content] if content else None
        return self._generation(prompt, written.removeprefix(begun), answer.usage, logprobs)

    def _generation(
        self, prompt: str, text: str, usage: Any, logprobs: list[float] | None
    ) -> Generation:
        return Generation(
            text=text,
            prompt_tokens=usage.prompt_tokens if usage else self.count_text(prompt),
            generated_tokens=usage.completion_tokens if usage else self.count_text(text),
            logprob_sum=sum(logprobs) if logprobs else None,
            cached_tokens=_cached_tokens(usage),
        )

    async def _wait_for_turn(self) -> None:
        if self._config.requests_per_minute is None:
            return
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + 60 / self._config.requests_per_minute
        await asyncio.sleep(start - now)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class _NoAnswerError(Exception):
    """A reply of status 200 without what was asked for."""


def _sampling_options(sampling: Sampling) -> dict[str, Any]:
    """Sampling options of a request; greedy sampling sends only its temperature."""
    if not sampling.temperature:
        return {"temperature": 0.0}
    options = {"top_p": sampling.top_p, "seed": sampling.seed}
    return {
        "temperature": sampling.temperature,
        **{k: v for k, v in options.items() if v is not None},
    }


def _cached_tokens(usage: Any) -> int | None:
    """Prompt tokens from the endpoint's prefix cache, where it tells."""
    details = getattr(usage, "prompt_tokens_details", None)
    return getattr(details, "cached_tokens", None)


def _only_choice(answer: Any) -> Any:
    choices = getattr(answer, "choices", None)
    if not choices:
        raise _NoAnswerError
    return choices[0]


def _load_encoder(tokenizer: str | None, hub: HubConfig) -> PromptEncoder | None:
    """The encoder of the plain text that an endpoint is sent, for counting its tokens."""
    return None if tokenizer is None else PromptEncoder(load_tokenizer(tokenizer, hub), chat=False)


def _estimate_tokens(text: str) -> int:
    return int(len(text) / CHARACTERS_PER_TOKEN) + 1
