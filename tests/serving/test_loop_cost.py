"""The cost of a question to the event loop of its ingress, which all other questions share."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final

import pytest

from steper_ray.engines.protocol import Generation
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.retrieval.protocol import Hit
from steper_ray.schema import Passage
from steper_ray.serving.overrides import ServingReasoning
from steper_ray.serving.replicas import ReplicaEngine
from tests.serving.asking import CHAT, STREAMED
from tests.serving.backend import ScriptedBackend, api_over, client_of, service_over
from tests.tokenizer_families import encoder_of

K, STEPS = 20, 10
MOST_S: Final = 0.05
TEXT: Final = "The river Kek runs by the town of Zalk, which Ann Lee founded in 1743. " * 12
THOUGHT: Final = (" <think>Hm", " well", " Ann Lee of town {} founded Zalk in 1743.\n")
"""What is written for a step, whose prompt is so encoded three times."""


class WatchedLoop(asyncio.SelectorEventLoop):
    """An event loop that knows the longest CPU time of its callbacks."""

    longest = 0.0

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> Any:
        return super().call_soon(self._watched(callback), *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> Any:
        return super().call_soon_threadsafe(self._watched(callback), *args, context=context)

    def _watched(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any) -> None:
            started = time.thread_time()
            callback(*args)
            self.longest = max(self.longest, time.thread_time() - started)

        return watched


class Backend(ScriptedBackend):
    """Long passages for every search; prompts are encoded as for a replica."""

    def __init__(self) -> None:
        super().__init__()
        self.found = itertools.count()
        self.encoder = encoder_of("qwen2.5")

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[self.hit() for _ in range(k)] for _ in queries]

    def hit(self) -> Hit:
        number = next(self.found)
        return Hit(Passage(str(number), f"Town {number}", f"{number} {TEXT}"), 1.0)

    def engine(self, say: Any = None) -> Any:
        texts = itertools.cycle(THOUGHT)
        steps = itertools.count()

        async def write(request: Any) -> Generation:
            text = next(texts).format(next(steps))
            finish: Any = "length" if "think" in text else "stop"
            return Generation(text, len(request.ids), 5, finish_reason=finish)

        handle: Any = SimpleNamespace(write=SimpleNamespace(remote=write))
        return ReplicaEngine(handle, self.encoder, lambda: None, by_prefix=True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("answer", STREAMED),
        ("chat/completions", {**CHAT, "model": "student-rag"}),
    ],
)
def test_no_callback_takes_long(path: str, body: Any) -> None:
    asked = ReasoningConfig(passages_per_step=K, max_steps=STEPS, max_prompt_tokens=200_000)
    service = service_over(Backend(), reasoning=ServingReasoning(asked, "v1", asked, "v1"))
    api = api_over(service)  # once a server's life

    async def post() -> int:
        async with client_of(api) as client:
            return len((await client.post(f"/v1/{path}", json=body)).content)

    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, WatchedLoop)
        assert runner.run(post()) > K * STEPS * len(TEXT)
    assert 0 < loop.longest < MOST_S
