"""Engine, retriever and backend of the ingress, whose work is done by replicas behind Ray Serve.

A request whose replica dies is sent again, to another replica or to the one that Serve starts instead,
until the deadline of the request. Searching and writing have no side effects, so sending twice is safe.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from steper_ray.engines.protocol import GREEDY, Generation, Sampling
from steper_ray.errors import ReplicaLostError
from steper_ray.reasoning.encoder import CountsTokens, PromptEncoder
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.retrieval.protocol import Hit
from steper_ray.serving.deployments.llm import StepRequest
from steper_ray.serving.plain_model import PlainRequest

LOST_REPLICA: Final = (
    RayActorError,
    ReplicaLostError,
    DeploymentUnavailableError,
    BackPressureError,
)
"""Errors that mean a replica could not finish, and not that the request was wrong."""


FIRST_PAUSE: Final = 0.05
"""Seconds before a lost request is sent again for the first time; the pause doubles each time."""


LONGEST_PAUSE: Final = 1.0
"""Largest number of seconds before a lost request is sent again."""


CALLS: Final = 2
"""Largest number of concurrent calls from an ingress to the retrievers."""


async def _one_answer(response: Any) -> Any:
    """Reply of one call to a replica; cancelling the wait cancels the replica's work too."""
    try:
        return await response
    except asyncio.CancelledError:
        if _is_cancelled():
            response.cancel()
            raise
        raise ReplicaLostError("the replica gave the request up") from None


def _is_cancelled() -> bool:
    """Whether this task itself is being cancelled; a replica that ends raises the same error."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def ask_again(ask: Callable[[], Any], lost: Callable[[], None] = lambda: None) -> Any:
    """Answer of a replica; a lost request is sent again, without limit, until the task is cancelled.

    ask: sends the request and returns Serve's response; lost: told of every replica that was lost
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return await _one_answer(ask())
        except LOST_REPLICA:
            lost()
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


class ReplicaRetriever:
    """A `Retriever` whose corpus is opened in replicas.

    A search costs less than the call that carries it, so searches that arrive during calls share the next.
    """

    def __init__(
        self, handle: DeploymentHandle[Any], version: str, lost: Callable[[], None]
    ) -> None:
        self._handle, self.version, self._lost = handle, version, lost
        self._waiting: list[tuple[str, int, asyncio.Future[list[Hit]]]] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`."""
        return list(await asyncio.gather(*(self._search(query, k) for query in queries)))

    async def _search(self, query: str, k: int) -> list[Hit]:
        answer: asyncio.Future[list[Hit]] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, k, answer))
        if len(self._calls) < CALLS:
            call = asyncio.create_task(self._call())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return await answer

    async def _call(self) -> None:
        """Send queued searches, one call after the other, until none remains; skip cancelled ones."""
        while self._waiting:
            asked = [one for one in self._waiting if not one[2].done()]
            self._waiting.clear()
            searches = [(query, k) for query, k, _ in asked]
            try:
                found = await ask_again(lambda: self._handle.search.remote(searches), self._lost)  # noqa: B023
            except Exception as error:  # noqa: BLE001  the searches that shared the call each raise it
                found = [error] * len(asked)
            for (_, _, answer), hits in zip(asked, found, strict=True):
                if answer.done():
                    continue
                if isinstance(hits, Exception):
                    answer.set_exception(hits)
                else:
                    answer.set_result(hits)


class ReplicaEngine(CountsTokens):
    """An `Engine` whose prompts are encoded here and whose text is written by a replica."""

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        encoder: PromptEncoder,
        lost: Callable[[], None],
        *,
        by_prefix: bool,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """by_prefix: whether the router of the replicas compares prompts
        say: called with each piece of the text; with it a lost replica raises ReplicaLostError
        """
        self._handle, self._encoder, self._lost, self._say = handle, encoder, lost, say
        self._by_prefix = by_prefix

    async def generate(
        self, prompt: Prompt, *, stop: Sequence[str], max_tokens: int, sampling: Sampling = GREEDY
    ) -> Generation:
        """See `VLLMEngine.generate`."""
        text, ids = await asyncio.to_thread(self._encoded, prompt)
        request = StepRequest(text, ids, tuple(stop), max_tokens, sampling)
        written: Generation
        if self._say is None:
            written = await ask_again(lambda: self._handle.write.remote(request), self._lost)
            return written
        try:
            stream = self._handle.options(stream=True).write_stream.remote(request)
            async for part in each_part(stream):
                if isinstance(part, Generation):
                    return part
                self._say(part)
        except LOST_REPLICA:
            self._lost()
        raise ReplicaLostError("the replica that wrote the answer was lost")

    def _encoded(self, prompt: Prompt) -> tuple[str, list[int]]:
        """The text that the router compares, and the tokens."""
        text = self._encoder.text(prompt) if self._by_prefix else ""
        return text, self._encoder.encode(prompt)


async def each_part(stream: Any) -> AsyncIterator[Any]:
    """Parts of a replica's stream; stopping early cancels the replica's work."""
    done = False
    try:
        async for part in stream:
            yield part
        done = True
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        raise ReplicaLostError("the replica gave the request up") from None
    finally:
        if not done:
            stream.cancel()


class ReplicaBackend:
    """A `Backend` of replicas behind Ray Serve."""

    def __init__(
        self,
        llm: DeploymentHandle[Any],
        retriever: DeploymentHandle[Any],
        encoder: PromptEncoder,
        record: Callable[..., None],
        *,
        corpus_version: str,
        by_prefix: bool,
    ) -> None:
        """by_prefix: whether the router of the LLM's replicas compares prompts"""

        def lost(deployment: str) -> Callable[[], None]:
            return lambda: record("steper_replicas_lost_total", 1, of=deployment)

        self._llm, self._retriever, self._encoder = llm, retriever, encoder
        self._llm_lost = lost("llm")
        self._by_prefix = by_prefix
        self.retriever = ReplicaRetriever(retriever, corpus_version, lost("retriever"))

    def engine(self, say: Callable[[str], None] | None = None) -> ReplicaEngine:
        """Engine that writes the steps of one question; see `Backend.engine`."""
        return ReplicaEngine(
            self._llm, self._encoder, self._llm_lost, by_prefix=self._by_prefix, say=say
        )

    async def chat(self, request: PlainRequest) -> str:
        """The plain model's OpenAI response; raises ModelRefusedError if the request cannot be met."""
        response: str = await ask_again(lambda: self._llm.chat.remote(request), self._llm_lost)
        return response

    async def chat_stream(self, request: PlainRequest) -> AsyncIterator[str]:
        """Server-sent events of the plain model's response; a lost replica raises ReplicaLostError."""
        stream = self._llm.options(stream=True).chat_stream.remote(request)
        try:
            async for part in each_part(stream):
                yield part
        except LOST_REPLICA:
            self._llm_lost()
            raise ReplicaLostError("the replica that wrote the answer was lost") from None

    async def max_model_len(self) -> int:
        """Context of the model in tokens."""
        length: int = await ask_again(lambda: self._llm.max_model_len.remote(), self._llm_lost)
        return length

    async def missing(self) -> list[str]:
        """Names of the parts that do not answer within a second: `model`, `corpus`."""

        async def answers(response: Any) -> bool:
            try:
                await asyncio.wait_for(_one_answer(response), 1)
            except (*LOST_REPLICA, TimeoutError):
                return False
            return True

        up = await asyncio.gather(
            answers(self._llm.unfinished.remote()), answers(self._retriever.corpus_version.remote())
        )
        return [name for name, here in zip(("model", "corpus"), up, strict=True) if not here]
