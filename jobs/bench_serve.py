"""The server under load, beside a bare loop over the same engine and index; loopback only.

    python jobs/bench_serve.py [--only speed steps prefixes overload faults soak] [--json results.json]

The bundled teacher is served with the toy corpus. On 2 cores all of it takes about 25 minutes.

* *speed*: questions/s at 1, 8 and 32 at a time, in turns with a process that runs the same reasoning loop
  over one AsyncLLM and one Retriever, without Ray. No question is asked twice. Clients, server and bare
  loop share the cores; who is not measured is idle.
* *steps*: time to the first token, and of each step
* *prefixes*: two LLM replicas and the prefix-aware router: what is found in their caches
* *overload*: eight times as many clients as places
* *faults*: SIGKILL of each kind of replica under load
* *soak*: ten minutes of everything, bad requests and clients that go away included

The last line is one JSON object: {figure: {"value": …, "target": …, "holds": …}}.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx
import psutil

AT_ONCE: Final = (1, 8, 32)
"""Concurrencies."""
ASKED: Final = {1: 24, 8: 96, 32: 320}
"""Questions of a round at each."""
ROUNDS: Final = 3


def settings(folder: Path, *more: str) -> list[str]:
    """Overrides of the toy's run file."""
    model = folder / "toy/models/teacher"
    return [f"run.dir={folder}", f"serve.model={model}", "toy.train=4000", *more]


def load(folder: Path) -> Any:
    """The run file."""
    from steper_ray.cli import TOY_RUN_FILE
    from steper_ray.config import load_config

    return load_config(TOY_RUN_FILE, settings(folder))


def prepare(folder: Path) -> list[str]:
    """The toy world and its index; returns its questions."""
    from steper_ray.questions import load_questions
    from steper_ray.session import ray_session
    from steper_ray.stages import run_stage

    config = load(folder)
    with ray_session():
        for stage in ("toy", "index"):
            run_stage(stage, config)
    return [question.question for question in load_questions(config, "train")]


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


class Bare:
    """The process of the bare loop."""

    def __init__(self, folder: Path) -> None:
        # Ray gives an engine of one core one thread, so both have one
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        for name in ("LANCE_CPU_THREADS", "TOKIO_WORKER_THREADS"):
            env[name] = "1"
        command = [sys.executable, __file__, "--bare", str(folder)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline()).strip() != "ready":
            if not line:
                raise SystemExit("the bare loop did not come up")

    def ask(self, questions: list[str], at_once: int) -> dict[str, float]:
        """Answer questions; returns seconds and steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([questions, at_once]) + "\n")
        self._process.stdin.flush()
        outcome: dict[str, float] = json.loads(self._process.stdout.readline())
        return outcome

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def run_bare(folder: Path) -> None:
    """The bare loop: reads rounds, a line of JSON each, and says how they went."""
    from steper_ray.models import reasoning_for
    from steper_ray.reasoning.engine import VLLMEngine
    from steper_ray.reasoning.loop import reason
    from steper_ray.retrieval import Retriever
    from steper_ray.serving.settings import served_model

    config = load(folder)
    model = served_model(config)
    asked = reasoning_for(config, model)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints

    async def serve() -> None:
        engine, retriever = VLLMEngine(model, config.engine, asked), Retriever(config.corpus_dir)
        print("ready", file=out, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            questions, at_once = json.loads(line)
            steps = 0

            async def ask(question: str) -> None:
                nonlocal steps
                done = await reason(question, engine=engine, searcher=retriever, config=asked)
                steps += len(done.steps)

            started = time.monotonic()
            await each(questions, at_once, ask)
            seconds = time.monotonic() - started
            print(json.dumps({"seconds": seconds, "steps": steps}), file=out, flush=True)
        engine.shutdown()

    asyncio.run(serve())


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


def speed(folder: Path, questions: list[str]) -> dict[str, Any]:
    """Rounds in turns; the median round of each counts."""
    rates: dict[str, dict[int, list[float]]] = {
        who: {at_once: [] for at_once in AT_ONCE} for who in ("bare", "served")
    }
    fresh = iter(questions)
    cached = [0.0, 0.0]
    bare = Bare(folder)
    with server(folder) as url:
        bare.ask([next(fresh) for _ in range(32)], 32)
        ask_server(url, [next(fresh) for _ in range(32)], 32)
        for _ in range(ROUNDS):
            for at_once in AT_ONCE:
                for who in ("bare", "served"):
                    asked = [next(fresh) for _ in range(ASKED[at_once])]
                    if who == "bare":
                        outcome = bare.ask(asked, at_once)
                    else:
                        outcome = ask_server(url, asked, at_once)
                        cached[0] += outcome["cached"]
                        cached[1] += outcome["prompt"]
                    rate = len(asked) / outcome["seconds"]
                    rates[who][at_once].append(rate)
                    say(f"{who}, {at_once} at a time: {rate:.2f} questions/s")
    bare.close()
    middle = {who: {n: sorted(r)[len(r) // 2] for n, r in of.items()} for who, of in rates.items()}
    return {"rates": middle, "cached": cached[0] / cached[1]}


def steps_in_time(folder: Path, questions: list[str]) -> dict[str, Any]:
    """Streams, 8 at a time: seconds to the first token, of a step's search and of its writing."""
    times: dict[str, list[float]] = {"first token": [], "search": [], "write": [], "step": []}

    async def run(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:

            async def ask(question: str) -> None:
                started, first = time.monotonic(), True
                body = {"question": question, "stream": True}
                async with client.stream("POST", "/v1/answer", json=body) as reply:
                    async for line in reply.aiter_lines():
                        if line == "event: token" and first:
                            times["first token"].append(time.monotonic() - started)
                            first = False
                        elif line.startswith('data: {"step":') and "rationale" in line:
                            step = json.loads(line[6:])
                            times["search"].append(step["search_seconds"])
                            times["write"].append(step["generate_seconds"])
                            times["step"].append(step["search_seconds"] + step["generate_seconds"])

            await each(questions, 8, ask)

    with server(folder) as url:
        ask_server(url, questions[:32], 32)
        asyncio.run(run(url))
    return {
        name: {"p50": quantile(of, 0.5), "p99": quantile(of, 0.99)} for name, of in times.items()
    }


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
        asyncio.run(stretch(url, at_once, 5))
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
    """The deployment of a process, `ProxyActor` or `VLLM::EngineCore`."""
    return " ".join(process.cmdline()).split()[0].rsplit(":steper", 1)[-1].rsplit(":", 1)[-1]


def resident() -> dict[str, int]:
    """Bytes in memory by kind of process."""
    sizes: dict[str, int] = {}
    for process in replicas():
        with contextlib.suppress(psutil.NoSuchProcess):
            sizes[name_of(process)] = sizes.get(name_of(process), 0) + process.memory_info().rss
    return sizes


def descriptors() -> dict[str, int]:
    """Open files by kind of process."""
    counts: dict[str, int] = {}
    for process in replicas():
        with contextlib.suppress(psutil.NoSuchProcess):
            counts[name_of(process)] = counts.get(name_of(process), 0) + process.num_fds()
    return counts


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

    with server(folder, "serve.ingresses=2") as url:
        ask_server(url, [next(asked) for _ in range(32)], 32)
        for kill, seconds in (("llm", 60), ("retriever", 20), ("ingress", 20)):
            outcomes[kill] = asyncio.run(under_load(url, kill, seconds))
            say(f"{kill} killed: {outcomes[kill]}")
    return outcomes


def soak(folder: Path, questions: list[str], seconds: float) -> dict[str, Any]:
    """All kinds of requests for so long; memory and open files after a tenth of it and at the end."""
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
        asyncio.run(run(url, seconds / 10))
        memory, files = resident(), descriptors()
        count = asyncio.run(run(url, 0.9 * seconds))
        time.sleep(5)
        grown = {name: (size - memory[name]) / 2**20 for name, size in resident().items()}
        more = {name: number - files[name] for name, number in descriptors().items()}
    return {"requests": count, "grown_mib": grown, "more_files": more}


def prefixes(folder: Path, questions: list[str]) -> dict[str, Any]:
    """Two LLM replicas: the share of prompt tokens found in a cache, and the questions/s."""
    with server(folder, "serve.engines=2", "engine.cpus=0.5") as url:
        ask_server(url, questions[:64], 32)
        outcome = ask_server(url, questions[64:384], 32)
    return {"cached": outcome["cached"] / outcome["prompt"], "rate": 320 / outcome["seconds"]}


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def figures(measured: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the targets are about; True or a number is reached by being at least, or at most, as stated."""
    found: dict[str, dict[str, Any]] = {}

    def least(name: str, value: float, target: float) -> None:
        found[name] = {"value": round(value, 3), "target": target, "holds": value >= target}

    def most(name: str, value: float, target: float) -> None:
        found[name] = {"value": round(value, 3), "target": target, "holds": value <= target}

    if "speed" in measured:
        rates = measured["speed"]["rates"]
        for at_once in AT_ONCE:
            ratio = rates["served"][at_once] / rates["bare"][at_once]
            least(f"throughput_c{at_once}_vs_bare", ratio, 0.8)
        least("throughput_c32_vs_c1", rates["served"][32] / rates["served"][1], 4)
    if "overload" in measured:
        one = measured["overload"]
        quiet, crowded, _ = one["accepted_p50_s"]
        most("refusal_p95_s", one["refused_p95_s"], 0.25)
        most("accepted_latency_crowded_vs_quiet", crowded / quiet, 1.5)
        most("overload_grown_mib", max(one["grown_mib"].values()), 50)
    if "faults" in measured:
        for kill in ("llm", "retriever"):
            most(f"lost_after_{kill}_killed", measured["faults"][kill]["failed"], 0)
        one = measured["faults"]["ingress"]
        most("unsafe_after_ingress_killed", one["failed"] - one["retry-safe"], 0)
        hung = sum(of["streams without an end"] for of in measured["faults"].values())
        most("streams_without_an_end", hung, 0)
    if "soak" in measured:
        most("soak_grown_mib", max(measured["soak"]["grown_mib"].values()), 50)
        most("soak_more_files", max(measured["soak"]["more_files"].values()), 10)
    return found


SECTIONS: Final = ("speed", "steps", "prefixes", "overload", "faults", "soak")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--soak-s", type=float, default=600, help="seconds of the soak")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    arguments = parser.parse_args()
    if arguments.bare:
        run_bare(arguments.bare)
        return
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        questions = prepare(folder)
        runs = {
            "speed": lambda: speed(folder, questions),
            "steps": lambda: steps_in_time(folder, questions[:200]),
            "prefixes": lambda: prefixes(folder, questions),
            "overload": lambda: overload(folder, questions),
            "faults": lambda: faults(folder, questions),
            "soak": lambda: soak(folder, questions, arguments.soak_s),
        }
        for section in arguments.only:
            measured[section] = runs[section]()
            print(f"{section}: {json.dumps(measured[section])}", flush=True)
    found = figures(measured)
    if arguments.json:
        arguments.json.write_text(json.dumps({"measured": measured, "figures": found}, indent=2))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
