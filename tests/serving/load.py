"""Clients of the real server, which ask on while something is done to it; what they look at meanwhile."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import psutil

from steper_ray.serving.applications import ingress_app
from tests.processes import titled
from tests.serving.conftest import LIMIT_S, Server


def post(server: Server, path: str, body: Any, **more: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=LIMIT_S, **more)


async def events(reply: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for line in reply.aiter_lines():
        kind, _, value = line.partition(": ")
        if kind == "event":
            name = value
        elif kind == "data":
            yield name, json.loads(value)


def until(holds: Callable[[], bool]) -> None:
    """Return as soon as something holds."""
    limit = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.1)


def replicas(server: Server) -> dict[str, int]:
    """Replicas that run, by deployment of the ingress's application."""
    from ray import serve

    deployments: Any = serve.status().applications[ingress_app(server.run)].deployments
    return {name: one.replica_states.get("RUNNING", 0) for name, one in deployments.items()}


def engines() -> list[psutil.Process]:
    """The processes of vLLM's engines."""
    return titled("EngineCore", psutil.Process().children(recursive=True))


LONG_CHAT: dict[str, Any] = {
    "model": "teacher",
    "messages": [{"role": "user", "content": "Who"}],
    "max_tokens": 900,
    "temperature": 1.5,
    "seed": 7,
}
"""The plain model writes long at it, if it is let."""


class Load:
    """Clients that ask one question after another, each its kind of request, until they are to stop."""

    def __init__(
        self, server: Server, whole: int, streams: int, *, pause: float = 0, key: str = "none"
    ) -> None:
        """pause: seconds between a client's requests"""
        self.server, self.stop, self.pause = server, False, pause
        self.headers = {"authorization": f"Bearer {key}"}
        self.whole: list[tuple[int, Any]] = []
        self.ends: list[str] = []
        """The last event of each stream."""
        self._kinds = [*[self._ask] * whole, *[self._stream] * streams]
        self._replies = [0] * len(self._kinds)
        """Of each client."""

    async def run(self, do: Callable[[], Any]) -> None:
        """Ask before `do`, while it is done, and after it."""
        limits = httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(
            base_url=self.server.url, timeout=LIMIT_S, limits=limits, headers=self.headers
        ) as client:
            tasks = [asyncio.create_task(kind(client, n)) for n, kind in enumerate(self._kinds)]
            await self._round(tasks)
            await asyncio.to_thread(do)
            await self._round(tasks)
            self.stop = True
            await asyncio.gather(*tasks)

    async def _round(self, tasks: list[asyncio.Task[None]]) -> None:
        """Return when each client has had the reply to a request that it made meanwhile."""
        enough = [replies + 2 for replies in self._replies]
        while any(now < then for now, then in zip(self._replies, enough, strict=True)):
            for task in tasks:
                if task.done():
                    await task
            await asyncio.sleep(0.05)

    def _question(self, client: int) -> str:
        return self.server.questions[(client + 7 * self._replies[client]) % 300]

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        while not self.stop:
            reply = await client.post("/v1/answer", json={"question": self._question(number)})
            self.whole.append((reply.status_code, reply.json()))
            self._replies[number] += 1
            await asyncio.sleep(self.pause)

    async def _stream(self, client: httpx.AsyncClient, number: int) -> None:
        while not self.stop:
            body = {"question": self._question(number), "stream": True}
            async with client.stream("POST", "/v1/answer", json=body) as reply:
                told = [name async for name, _ in events(reply)] if reply.status_code == 200 else []
            self.ends.append(told[-1] if told else str(reply.status_code))
            self._replies[number] += 1
            await asyncio.sleep(max(0.1, self.pause))
