"""A server in a process of its own, its clients, and what they do to it: crowds, kills, long hours.

For `bench_serve.py`; loopback only.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx
import psutil

SETTLE_S: Final = 240.0
"""Seconds of load before memory is compared: vLLM's process grows for two minutes, and then no more."""


def settings(folder: Path, *more: str) -> list[str]:
    """Overrides of the toy's run file."""
    model = folder / "toy/models/teacher"
    return [f"run.dir={folder}", f"serve.model={model}", "toy.train=5500", *more]


def load(folder: Path) -> Any:
    """The run file."""
    from steper_ray.cli import TOY_RUN_FILE
    from steper_ray.run.loading import load_config

    return load_config(TOY_RUN_FILE, settings(folder))


@contextlib.contextmanager
def server(folder: Path, *more: str) -> Iterator[str]:
    """`steper serve` in a process of its own; yields its URL."""
    from steper_ray.cli import TOY_RUN_FILE

    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "steper_ray.cli", "serve", "--config", str(TOY_RUN_FILE)]
    for one in settings(folder, f"serve.port={port}", *more):
        command += ["--set", one]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while "Ctrl-C ends it" not in (line := process.stdout.readline()):
            if not line:
                raise SystemExit("the server did not come up")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def each(items: list[Any], at_once: int, work: Any) -> None:
    """Work on all of them, so many at a time."""
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(at_once)))


def ask_server(url: str, questions: list[str], at_once: int) -> dict[str, float]:
    """Answer questions over HTTP; returns seconds, steps and cached prompt tokens."""
    total = {"steps": 0.0, "prompt": 0.0, "cached": 0.0}

    async def run() -> float:
        limits = httpx.Limits(max_connections=at_once)
        async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:

            async def ask(question: str) -> None:
                reply = await client.post("/v1/answer", json={"question": question})
                body = reply.raise_for_status().json()
                total["steps"] += len(body["steps"])
                total["prompt"] += body["prompt_tokens"]
                total["cached"] += body["cached_tokens"]

            started = time.monotonic()
            await each(questions, at_once, ask)
            return time.monotonic() - started

    return {"seconds": asyncio.run(run()), **total}


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def quantile(values: list[float], share: float) -> float:
    """The value that a share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def overload(folder: Path, questions: list[str]) -> dict[str, Any]:
    """A quiet stretch at the server's 16 places, then eight times as many clients, then quiet again.

    A client that is refused comes again after half a second, which is sooner than it is told to.
    """
    at_once, crowd, seconds = 16, 128, 30.0
    asked = iter(questions * 10)

    async def stretch(url: str, clients: int, seconds: float) -> dict[str, list[float]]:
        took: dict[str, list[float]] = {"accepted": [], "refused": []}
        # httpx looks at every connection for every request: with 128 of them it takes a core by itself
        connector = aiohttp.TCPConnector(limit=clients)
        async with aiohttp.ClientSession(url, connector=connector) as client:
            until = time.monotonic() + seconds

            async def one(_number: int) -> None:
                while time.monotonic() < until:
                    started, body = time.monotonic(), {"question": next(asked)}
                    async with client.post("/v1/answer", json=body) as reply:
                        text = await reply.text()
                    spent = time.monotonic() - started
                    if reply.status == 200:
                        took["accepted"].append(spent)
                        continue
                    assert reply.status in (429, 503), text
                    assert int(reply.headers["retry-after"]) >= 1
                    took["refused"].append(spent)
                    await asyncio.sleep(0.5)

            await asyncio.gather(*(one(number) for number in range(clients)))
        return took

    with server(folder, f"serve.max_concurrent={at_once}") as url:
        asyncio.run(stretch(url, at_once, SETTLE_S))
        before = asyncio.run(stretch(url, at_once, 15))
        memory = resident()
        during = asyncio.run(stretch(url, crowd, seconds))
        grown = {name: resident()[name] - size for name, size in memory.items()}
        started = time.monotonic()
        ask_server(url, [next(asked)], 1)
        recovered = time.monotonic() - started
        after = asyncio.run(stretch(url, at_once, 15))
    return {
        "refused": len(during["refused"]),
        "refused_p95_s": quantile(during["refused"], 0.95),
        "accepted_p50_s": [quantile(one["accepted"], 0.5) for one in (before, during, after)],
        "accepted_rate": [
            len(one["accepted"]) / span
            for one, span in ((before, 15), (during, seconds), (after, 15))
        ],
        "grown_mib": {name: size / 2**20 for name, size in grown.items()},
        "first_after_s": recovered,
    }


def replicas() -> list[psutil.Process]:
    """The server's processes: replicas, proxies and engines."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            words = " ".join(process.cmdline())
            if words.startswith(("ray::ServeReplica", "ray::ProxyActor", "VLLM::")):
                found.append(process)
    return found


def name_of(process: psutil.Process) -> str:
    """The deployment of a process, `ProxyActor` or `EngineCore`; Ray adds what it is doing, after a dot."""
    return " ".join(process.cmdline()).split()[0].partition(".")[0].rsplit(":", 1)[-1]


def by_kind(measure: Callable[[psutil.Process], int]) -> dict[str, int]:
    """A number of each of them, added up by kind of process."""
    sums: dict[str, int] = {}
    for process in replicas():
        with contextlib.suppress(psutil.NoSuchProcess):
            name = name_of(process)
            sums[name] = sums.get(name, 0) + measure(process)
    return sums


def resident() -> dict[str, int]:
    """Bytes in memory by kind of process."""
    return by_kind(lambda process: process.memory_info().rss)


def descriptors() -> dict[str, int]:
    """Open files by kind of process."""
    return by_kind(lambda process: process.num_fds())


def faults(folder: Path, questions: list[str]) -> dict[str, Any]:
    """SIGKILL of each kind of replica while 8 clients ask whole answers and 4 stream."""
    outcomes: dict[str, Any] = {}
    asked = iter(questions * 10)

    async def under_load(url: str, kill: str, seconds: float) -> dict[str, Any]:
        counts = {"whole": 0, "failed": 0, "retry-safe": 0, "streams": 0, "stream errors": 0}
        counts |= {"streams without an end": 0}
        longest = 0.0
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            until = time.monotonic() + seconds

            async def whole(_number: int) -> None:
                nonlocal longest
                while time.monotonic() < until:
                    started = time.monotonic()
                    reply = await client.post("/v1/answer", json={"question": next(asked)})
                    longest = max(longest, time.monotonic() - started)
                    counts["whole"] += 1
                    if reply.status_code != 200:
                        counts["failed"] += 1
                        counts["retry-safe"] += "asking again is safe" in reply.text

            async def stream(_number: int) -> None:
                while time.monotonic() < until:
                    body, last = {"question": next(asked), "stream": True}, ""
                    async with client.stream("POST", "/v1/answer", json=body) as reply:
                        async for line in reply.aiter_lines():
                            last = line if line.startswith("event: ") else last
                    counts["streams"] += 1
                    if last == "event: error" or reply.status_code == 503:
                        counts["stream errors"] += 1
                        await asyncio.sleep(0.5)
                    counts["streams without an end"] += reply.status_code == 200 and last not in (
                        "event: error",
                        "event: answer",
                    )

            async def killer() -> None:
                await asyncio.sleep(5)
                next(one for one in replicas() if name_of(one) == kill).kill()

            clients = [*map(whole, range(8)), *map(stream, range(4))]
            await asyncio.gather(killer(), *clients)
        return {**counts, "longest_s": longest}

    with server(folder, "serve.ingress_replicas=2") as url:
        ask_server(url, [next(asked) for _ in range(32)], 32)
        for kill, seconds in (("llm", 60), ("retriever", 20), ("ingress", 20)):
            outcomes[kill] = asyncio.run(under_load(url, kill, seconds))
            say(f"{kill} killed: {outcomes[kill]}")
    with server(folder, "serve.layout=fused") as url:
        ask_server(url, [next(asked) for _ in range(32)], 32)
        outcomes["fused"] = asyncio.run(under_load(url, "ingress", 60))
        say(f"a fused replica killed: {outcomes['fused']}")
    return outcomes


def soak(folder: Path, questions: list[str], seconds: float) -> dict[str, Any]:
    """All kinds of requests for so long; how memory and open files differ between beginning and end."""
    asked = iter(questions * 100)

    async def run(url: str, seconds: float) -> int:
        count = 0
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            until = time.monotonic() + seconds

            async def one(number: int) -> None:
                nonlocal count
                while time.monotonic() < until:
                    question = next(asked)
                    match (number, count % 40):
                        case (_, 0):  # someone who goes away
                            body = {"question": question, "stream": True}
                            async with client.stream("POST", "/v1/answer", json=body) as reply:
                                async for _ in reply.aiter_lines():
                                    break
                        case (_, 1):
                            json_type = {"content-type": "application/json"}
                            reply = await client.post("/v1/answer", content=b"{", headers=json_type)
                            assert reply.status_code == 400, reply.text
                        case (0, _):
                            body = {"question": question, "stream": True}
                            await client.post("/v1/answer", json=body)
                        case (1, _):
                            await client.post("/v1/search", json={"query": question})
                        case _:
                            reply = await client.post("/v1/answer", json={"question": question})
                            assert reply.status_code == 200, reply.text
                    count += 1

            await asyncio.gather(*(one(number) for number in range(16)))
        return count

    with server(folder) as url:
        asyncio.run(run(url, SETTLE_S))
        memory, files = resident(), descriptors()
        count = asyncio.run(run(url, seconds))
        time.sleep(5)
        grown = {name: (size - memory[name]) / 2**20 for name, size in resident().items()}
        more = {name: number - files[name] for name, number in descriptors().items()}
    return {"requests": count, "grown_mib": grown, "more_files": more}
