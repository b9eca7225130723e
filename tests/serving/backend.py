"""A `Backend` that writes and finds what it is told, and the API over it: no Ray, no vLLM."""

import asyncio
import json
import selectors
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import uvicorn
from fastapi import FastAPI

from steper_ray.engines.protocol import GREEDY, Generation, Sampling
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.retrieval.protocol import Hit
from steper_ray.schema import FinishReason, Passage
from steper_ray.serving.answering import AnswerService
from steper_ray.serving.api.routes import build_api
from steper_ray.serving.api_middleware import Take
from steper_ray.serving.keys import KeyRing, Keys, RateLimiter
from steper_ray.serving.overrides import ServingReasoning
from steper_ray.serving.plain_model import PlainRequest
from steper_ray.serving.settings import ServeConfig
from tests.fakes import CountsWords

PASSAGES: Final = {
    name: Passage(name, name.upper(), f"About {name}.") for name in ("ada", "bob", "cy", "dee")
}
HANG: Final = object()
"""In a step: never go on."""
Act = str | float | Exception | object
"""Of a step: a piece of text, seconds to wait, an error to raise, an `asyncio.Event` to wait for, HANG."""
TWO_STEPS: Final[list[list[Act]]] = [
    [" Ada knows", " Bob."],
    [" Bob lives in Delft.", " So the answer", " is: Delft."],
]


class ScriptedEngine(CountsWords):
    """Writes the steps of one question.

    Of step s the prompt counts 10·s tokens, 5·(s−1) of them cached; every piece of text is one token.
    """

    def __init__(self, backend: "ScriptedBackend", say: Callable[[str], None] | None) -> None:
        self._backend, self._say = backend, say
        self._script: list[Sequence[Act]] | None = None
        self._written = 0

    async def generate(
        self, prompt: Prompt, *, stop: Sequence[str], max_tokens: int, sampling: Sampling = GREEDY
    ) -> Generation:
        backend = self._backend
        backend.prompts.append(prompt.text)
        backend.samplings.append(sampling)
        if self._script is None:
            self._script = list(backend.script_for(prompt.text))
        pieces = []
        async for piece in backend.play(self._script.pop(0)):
            pieces.append(piece)
            if self._say is not None:
                self._say(piece)
        self._written += 1
        step = self._written
        return Generation(
            "".join(pieces),
            10 * step,
            len(pieces),
            cached_tokens=5 * (step - 1) if step > 1 else 0,
            finish_reason=backend.finish_reasons.get(step, "stop"),
        )


class ScriptedBackend:
    """Answers every question by the same steps, but those that have their own."""

    def __init__(
        self,
        script: Sequence[Sequence[Act]] = TWO_STEPS,
        *,
        own: Mapping[str, Sequence[Sequence[Act]]] | None = None,
        searching: Sequence[Act] = (),
        chatting: Sequence[Act] = ('{"object": "chat.completion"}',),
        finish_reasons: Mapping[int, FinishReason] | None = None,
    ) -> None:
        """Script of every question.

        own: steps by question; searching: what comes before a search's passages; finish_reasons: by step,
        from 1 on, where it is not `stop`
        """
        self.finish_reasons = finish_reasons or {}
        self._script, self._own, self._searching = script, own or {}, searching
        self._chatting = chatting
        self.prompts: list[str] = []
        self.samplings: list[Sampling] = []
        self.searches: list[tuple[str, int]] = []
        self.chats: list[dict[str, Any]] = []
        self.chat_kinds: list[str] = []
        self.gone: list[str] = []
        """What does not answer."""
        self.at_work = 0
        """Pieces of work that have begun and neither ended nor been cancelled."""

    @property
    def retriever(self) -> "ScriptedBackend":
        return self

    def engine(self, say: Callable[[str], None] | None = None) -> ScriptedEngine:
        return ScriptedEngine(self, say)

    def script_for(self, prompt: str) -> Sequence[Sequence[Act]]:
        own = [steps for question, steps in self._own.items() if f"Question: {question}" in prompt]
        return own[0] if own else self._script

    version = "v1"

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [await self._search(query, k) for query in queries]

    async def _search(self, query: str, k: int) -> list[Hit]:
        """The first search finds ada, bob; the ones after it bob, cy, dee; scores 4, 3, 2."""
        self.searches.append((query, k))
        async for _ in self.play(self._searching):
            pass
        names = ("bob", "cy", "dee") if "knows" in query else ("ada", "bob")
        hits = [Hit(PASSAGES[name], 4.0 - place) for place, name in enumerate(names)]
        return hits[:k]

    async def chat(self, request: PlainRequest) -> str:
        return "".join([part async for part in self.chat_stream(request)])

    async def max_model_len(self) -> int:
        return 512

    async def chat_stream(self, request: PlainRequest) -> AsyncIterator[str]:
        self.chats.append(dict(request.body))
        self.chat_kinds.append(request.kind)
        async for part in self.play(self._chatting):
            yield part

    async def missing(self) -> list[str]:
        return self.gone

    async def play(self, acts: Sequence[Act]) -> AsyncIterator[str]:
        """The pieces of text of a step."""
        self.at_work += 1
        try:
            for act in acts:
                if isinstance(act, str):
                    yield act
                elif isinstance(act, Exception):
                    raise act
                elif isinstance(act, asyncio.Event):
                    await act.wait()
                elif act is HANG:
                    await asyncio.Event().wait()
                else:
                    assert isinstance(act, float | int)
                    await asyncio.sleep(act)
        finally:
            self.at_work -= 1


def service_over(
    backend: ScriptedBackend,
    *,
    places: int = 4,
    reasoning: ServingReasoning | None = None,
    record: Callable[..., None] = lambda *_args, **_tags: None,
    **serve: Any,
) -> AnswerService:
    """The service over it.

    reasoning: by default asked as trained: IRCoT, k 2, S 4, the corpus of version `v1`
    serve: of `ServeConfig`
    """
    trained = ReasoningConfig(passages_per_step=2, max_steps=4)
    return AnswerService(
        backend,
        reasoning or ServingReasoning(trained, "v1", trained, "v1"),
        ServeConfig(**serve),
        model="student",
        model_version="s1",
        places=places,
        record=record,
    )


def api_over(service: AnswerService, keys: Keys | None = None, take: Take | None = None) -> FastAPI:
    """The ASGI application.

    keys: what opens it beside the keys file of the service's config
    """
    limiter = RateLimiter()

    async def take_here(owner: str, per_minute: int, requests: int) -> float:
        return limiter.take(owner, per_minute, requests)

    return build_api(service, KeyRing(service.config, keys or {}), take or take_here)


def client_of(api: FastAPI, *, root_path: str = "", **options: Any) -> httpx.AsyncClient:
    """A client in the same process; a stream comes to it only when it is whole.

    root_path: where the API is told that it is mounted; URLs are sent to it as they are
    """
    transport = httpx.ASGITransport(app=api, raise_app_exceptions=False, root_path=root_path)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", **options)


@asynccontextmanager
async def on_loopback(api: Any) -> AsyncIterator[str]:
    """The address of a real server of it in this event loop."""
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="critical", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await running


async def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that is about to be so."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


def events_of(text: str) -> list[tuple[str, Any]]:
    """The events of a stream as (name, data)."""
    events = []
    for block in text.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


class _FastSelector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> Any:
        return super().select(timeout and timeout / FAST)


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs 100 times as fast as the real one."""

    def __init__(self) -> None:
        super().__init__(_FastSelector())

    def time(self) -> float:
        return super().time() * FAST


FAST: Final = 100
