"""An OpenAI-compatible endpoint as the engine that writes: a hosted model, or vLLM served elsewhere.

A step is asked for as a completion, which continues the prompt exactly as a local engine does with a base
model. Endpoints that only chat cannot be relied on to continue an assistant's turn: they are given the
whole prompt as a user's message and asked for what comes next. That is the one place where a prompt
reads differently; a chain has no confidence where the endpoint gives no log-probabilities.

Retries, backoff and `Retry-After` are the official client's. A reply that is no answer (broken JSON, no
choices; see `steper_ray.engines.replies`) is retried as often. Then the question has failed: its chain
carries the error, and a later build asks it again. So it is with a refusal, at once.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from steper_ray.engines.protocol import GREEDY, Generation, Sampling
from steper_ray.engines.replies import BrokenReplyError, Reply, read_chat, read_completion
from steper_ray.engines.settings import EndpointConfig
from steper_ray.errors import InputError, RowError
from steper_ray.models.loading import load_tokenizer
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.thinking import (
    THINK_END,
    cut_at_stop,
    joined_thoughts,
    split_thought,
)
from steper_ray.text import short_message

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
        async with self._open_requests:
            with self._explained():
                options = self._options(stop, max_tokens, sampling)
                reply = await self._step(prompt.text, stop, options)
        written = (reply.thought or "") + reply.text
        return Generation(
            text=reply.text,
            prompt_tokens=_known(reply.usage.prompt_tokens, self.count_text, prompt.text),
            generated_tokens=_known(reply.usage.completion_tokens, self.count_text, written),
            logprob_sum=sum(reply.logprobs) if reply.logprobs else None,
            logprob_tokens=len(reply.logprobs),
            cached_tokens=reply.usage.cached_tokens,
            finish_reason=reply.finish_reason,
            thought=reply.thought,
        )

    def _options(self, stop: Sequence[str], max_tokens: int, sampling: Sampling) -> dict[str, Any]:
        """Parameters of a request, as the settings have them."""
        config = self._config
        options: dict[str, Any] = {
            config.limit_parameter: max_tokens + config.max_reasoning_tokens,
            "extra_body": dict(config.extra_body),
        }
        if config.send_stop:
            options["stop"] = list(stop)
        return options | (_sampling_options(sampling) if config.send_sampling else {})

    async def _step(self, prompt: str, stop: Sequence[str], options: dict[str, Any]) -> Reply:
        """The reply to a prompt, up to a stop text, with its thought apart.

        One that is empty, though no thought took its place, is asked for once more after a line break: the
        text may have begun with one, and so have ended at once. Raises RowError where it is empty still.
        """
        reply = self._read(await self._ask(prompt, options), prompt, stop)
        if reply.text.strip() or THINK_END in stop:  # a thought that goes on may end at once
            return reply
        if reply.thought is None and reply.finish_reason != "length" and self._config.max_retries:
            reply = self._read(await self._ask(f"{prompt}\n", options), prompt, stop)
        if not reply.text.strip():
            raise RowError(f"an empty reply{self._why_empty(reply)}")
        return reply

    def _read(self, reply: Reply, prompt: str, stop: Sequence[str]) -> Reply:
        """A reply up to a stop text, with its thought apart.

        A completion that is a thought and no more stays as it is: it can be gone on with.
        """
        if THINK_END in stop:
            return replace(reply, text=reply.text.partition(THINK_END)[0])
        thought, text, _ = split_thought(reply.text)
        if self._config.api == "chat":
            begun = prompt.rsplit("\n", 1)[-1]  # the line to be continued, which chats repeat
            text = text.lstrip().removeprefix(begun) if text.lstrip().startswith(begun) else text
        elif thought is not None and not text.strip():
            return reply
        text, cut = cut_at_stop(text, stop)
        return replace(
            reply,
            text=text,
            thought=joined_thoughts(reply.thought, thought) if reply.thought else thought,
            finish_reason="stop" if cut else reply.finish_reason,
        )

    def _why_empty(self, reply: Reply) -> str:
        """Why a reply is probably empty and what to do, to stand after a message."""
        if reply.finish_reason == "length":
            return ": a thought took all its tokens; raise max_reasoning_tokens"
        if reply.thought is not None and self._config.send_stop:
            return ": a text that ends a step ended its thought; set send_stop: false"
        return ""

    async def _ask(self, prompt: str, options: dict[str, Any]) -> Reply:
        """The reply to one request, which is made again while the reply is broken."""
        import openai

        ask = self._complete if self._config.api == "completions" else self._chat
        retries = 0
        while True:
            await self._wait_for_turn()
            with_logprobs = self._logprobs
            try:
                return await ask(prompt, options)
            except openai.APIStatusError as error:
                refused = error.status_code < 500 and "logprobs" in str(error)
                if not with_logprobs or not refused:
                    raise
                self._logprobs = False
            except BrokenReplyError as error:
                if retries == self._config.max_retries:
                    raise RowError(
                        f"its answers are not those of an OpenAI endpoint ({error})"
                    ) from None
                logger.warning("%s: %s; retry %d", self._config.base_url, error, retries + 1)
                await asyncio.sleep(min(8.0, 0.5 * 2**retries))
                retries += 1

    async def _complete(self, prompt: str, options: dict[str, Any]) -> Reply:
        if self._logprobs:
            options = {**options, "logprobs": 1}
        response = await self._client.completions.with_raw_response.create(
            model=self._model, prompt=prompt, **options
        )
        return read_completion(response.content)

    async def _chat(self, prompt: str, options: dict[str, Any]) -> Reply:
        if self._logprobs:
            options = {**options, "logprobs": True}
        response = await self._client.chat.completions.with_raw_response.create(
            model=self._model,
            messages=[{"role": "user", "content": NEXT_LINE + prompt}],
            **options,
        )
        return read_chat(response.content)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the client's errors, and those of replies, into ours, which name the endpoint."""
        import openai

        where = self._config.base_url
        try:
            yield
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise InputError(
                f"{where}: refuses the key in {self._config.api_key_env} ({error.status_code})"
            ) from None
        except openai.NotFoundError:
            raise InputError(
                f"{where}: does not know {self._model!r} or has no {self._config.api}; "
                "check the model's name, base_url and api"
            ) from None
        except openai.APITimeoutError:
            raise RowError(
                f"{where}: no answer within {self._config.timeout_seconds:g} s; "
                "raise timeout_seconds, or lower concurrency"
            ) from None
        except openai.APIConnectionError as error:
            reason = short_message(error.__cause__ or error, longest=300)
            raise RowError(
                f"{where}: cannot be reached ({reason}); check base_url, and that the endpoint runs"
            ) from None
        except openai.APIError as error:
            message = short_message(f"{type(error).__name__}: {error}", longest=300)
            raise RowError(f"{where}: {message}") from None
        except UnicodeEncodeError:
            raise RowError("half a character in the prompt (a lone surrogate)") from None
        except RowError as error:
            raise RowError(f"{where}: {error}") from None

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


def _sampling_options(sampling: Sampling) -> dict[str, Any]:
    """Sampling options of a request; greedy sampling sends only its temperature."""
    if not sampling.temperature:
        return {"temperature": 0.0}
    options = {"top_p": sampling.top_p, "seed": sampling.seed}
    return {
        "temperature": sampling.temperature,
        **{k: v for k, v in options.items() if v is not None},
    }


def _known(number: int | None, count: Callable[[str], int], text: str) -> int:
    """A number of tokens that the endpoint gives, else that of a text as we count it."""
    return count(text) if number is None else number


def _load_encoder(tokenizer: str | None, hub: HubConfig) -> PromptEncoder | None:
    """The encoder of the plain text that an endpoint is sent, for counting its tokens."""
    return None if tokenizer is None else PromptEncoder(load_tokenizer(tokenizer, hub), chat=False)


def _estimate_tokens(text: str) -> int:
    return int(len(text) / CHARACTERS_PER_TOKEN) + 1
