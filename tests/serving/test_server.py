"""The server as its users have it: real engines, real HTTP, real SIGKILL. The tests share one server."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.cli import TOY_RUN_FILE, main
from steper_ray.errors import StageError
from steper_ray.retrieval import corpus_version, open_retriever
from steper_ray.retrieval.corpus import CorpusInfo
from steper_ray.serving.deploy import APP, build_ingress, corpus_app, llm_app
from steper_ray.serving.session import server_spec, update_server
from tests.fakes import hits_of
from tests.processes import ended
from tests.samples import index_corpus
from tests.serving.conftest import PLACES, Server

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

LIMIT_S = 600
"""After which what has not come is taken for something that never comes."""


def post(server: Server, path: str, body: Any, **more: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=120, **more)


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


def replicas(deployment: str) -> int:
    """Replicas of a deployment of the ingress's application that run."""
    from ray import serve

    states: Any = serve.status().applications[APP].deployments[deployment].replica_states
    return int(states.get("RUNNING", 0))


def engines() -> list[psutil.Process]:
    """The processes of vLLM's engines."""
    processes = psutil.Process().children(recursive=True)
    return [process for process in processes if "EngineCore" in process.name()]


async def unfinished(server: Server) -> int:
    """Requests in the engine."""
    from ray import serve

    from steper_ray.serving.deployments.ingress import LLM

    handle = serve.get_deployment_handle(LLM, llm_app(server.spec))
    return int(await handle.unfinished.remote())


def test_an_answer_is_what_the_loop_gives_in_this_corpus(server: Server) -> None:
    body = post(server, "/v1/answer", {"question": server.questions[0]}).json()
    retriever = open_retriever(server.config.folder.corpus)
    assert body["corpus_version"] == retriever.version
    assert body["overrides"] == {}
    assert body["model"] == "teacher"
    seen: set[str] = set()
    query = server.questions[0]
    for step in body["steps"]:
        assert step["query"] == query
        hits = hits_of(retriever, query, server.config.reasoning.passages_per_step)
        new = [hit for hit in hits if hit.passage.id not in seen]
        seen |= {hit.passage.id for hit in new}
        assert [(p["id"], p["text"], p["score"]) for p in step["passages"]] == [
            (hit.passage.id, hit.passage.text, hit.score) for hit in new
        ]
        query = step["rationale"]
    assert body["answer"] in body["steps"][-1]["rationale"]
    abilities = [step["ability"] for step in body["steps"]]
    assert abilities == ["init", *["exp"] * (len(abilities) - 2), "agg"]
    for kind in ("prompt_tokens", "generated_tokens", "cached_tokens"):
        assert body[kind] == sum(step[kind] for step in body["steps"])
    assert body["cached_tokens"] > 0  # a step finds the one before it in the cache


def test_a_stream_tells_the_same_as_it_happens(server: Server) -> None:
    async def run() -> list[tuple[str, Any, float]]:
        begun = time.monotonic()
        body = {"question": server.questions[1], "stream": True}
        async with (
            httpx.AsyncClient(timeout=60) as client,
            client.stream("POST", f"{server.url}/v1/answer", json=body) as reply,
        ):
            assert reply.headers["content-type"].startswith("text/event-stream")
            return [(name, data, time.monotonic() - begun) async for name, data in events(reply)]

    told = asyncio.run(run())
    whole = post(server, "/v1/answer", {"question": server.questions[1]}).json()
    last = told[-1]
    assert last[0] == "answer"
    assert last[1]["answer"] == whole["answer"]
    steps = [data for name, data, _ in told if name == "step"]
    assert steps == last[1]["steps"]
    assert [s["rationale"] for s in steps] == [s["rationale"] for s in whole["steps"]]
    for step in steps:
        written = [
            d["text"] for name, d, _ in told if name == "token" and d["step"] == step["step"]
        ]
        assert len(written) > 1
        assert "".join(written).strip() == step["rationale"]
    first = next(at for name, _, at in told if name == "token")
    assert first < 0.8 * last[2]  # not all at once at the end


def test_openai_s_client_works_unchanged_with_both_models(server: Server) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["teacher", "teacher-rag"]
    asked: Any = [{"role": "user", "content": server.questions[0]}]
    whole = post(server, "/v1/answer", {"question": server.questions[0]}).json()

    rag = client.chat.completions.create(model="teacher-rag", messages=asked)
    assert rag.choices[0].message.content == whole["answer"]
    assert rag.usage is not None
    assert rag.usage.completion_tokens == whole["generated_tokens"]
    assert rag.model_extra is not None
    rationales = [step["rationale"] for step in rag.model_extra["steper"]["steps"]]
    assert rationales == [step["rationale"] for step in whole["steps"]]
    parts = list(client.chat.completions.create(model="teacher-rag", messages=asked, stream=True))
    said = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert said == whole["answer"]

    plain = client.chat.completions.create(
        model="teacher", messages=asked, max_tokens=5, temperature=0
    )
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 5
    pieces = client.chat.completions.create(
        model="teacher", messages=asked, max_tokens=5, temperature=0, stream=True, seed=7
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == plain.choices[0].message.content


def test_another_way_of_asking_is_named_and_limits_hold(server: Server) -> None:
    question = server.questions[2]
    body = post(server, "/v1/answer", {"question": question, "passages_per_step": 3}).json()
    assert body["overrides"] == {"passages_per_step": {"trained": 2, "served": 3}}
    assert len(body["steps"][0]["passages"]) == 3
    react = post(server, "/v1/answer", {"question": question, "framework": "react"}).json()
    assert react["overrides"] == {"framework": {"trained": "ircot", "served": "react"}}
    refused = post(server, "/v1/answer", {"question": question, "max_steps": 99})
    assert refused.status_code == 422
    long = {"model": "teacher", "messages": [{"role": "user", "content": "word " * 1500}]}
    if (refused := post(server, "/v1/chat/completions", long)).status_code != 422:
        pytest.fail(refused.text)  # longer than the engine's context, or than the server's limit


def test_a_batch_a_search_and_readiness(server: Server) -> None:
    asked = server.questions[:3]
    body = post(server, "/v1/answers", {"questions": asked}).json()
    singly = [post(server, "/v1/answer", {"question": one}).json()["answer"] for one in asked]
    assert [one["answer"] for one in body["answers"]] == singly
    found = post(server, "/v1/search", {"query": asked[0], "k": 3}).json()["passages"]
    hits = hits_of(open_retriever(server.config.folder.corpus), asked[0], 3)
    assert [passage["id"] for passage in found] == [hit.passage.id for hit in hits]
    ready = httpx.get(f"{server.url}/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


def test_a_port_in_use_and_a_public_address_without_keys_are_refused(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    same = ["serve", "--config", str(TOY_RUN_FILE), "--set", f"run.dir={server.config.folder.root}"]
    same += ["--set", f"serve.model={server.config.serve.model}"]
    assert main([*same, "--set", f"serve.port={server.config.serve.port}"]) == 2
    assert "serve.port: cannot listen on" in capfd.readouterr().err
    assert main([*same, "--set", "serve.host=0.0.0.0"]) == 2
    assert "no API keys are set" in capfd.readouterr().err


LONG_CHAT: dict[str, Any] = {
    "model": "teacher",
    "messages": [{"role": "user", "content": "Who"}],
    "max_tokens": 900,
    "temperature": 1.5,
    "seed": 7,
}
"""The plain model writes long at it, if it is let."""


def test_who_goes_away_is_not_worked_for(server: Server) -> None:
    begun = time.monotonic()
    whole = post(server, "/v1/chat/completions", LONG_CHAT).json()
    a_token = (time.monotonic() - begun) / whole["usage"]["completion_tokens"]
    half_of_it = LONG_CHAT["max_tokens"] / 2 * a_token

    async def run() -> None:
        for stream in (False, True):
            async with httpx.AsyncClient(timeout=60) as client:
                asked = asyncio.create_task(
                    client.post(
                        f"{server.url}/v1/chat/completions", json={**LONG_CHAT, "stream": stream}
                    )
                )
                while not await unfinished(server):
                    assert not asked.done()
                    await asyncio.sleep(0.05)
                asked.cancel()
            started = time.monotonic()
            while await unfinished(server):
                assert time.monotonic() - started < half_of_it
                await asyncio.sleep(0.05)

    asyncio.run(run())


def test_past_its_places_it_says_so_at_once_and_recovers(server: Server) -> None:
    statuses: list[tuple[int, float, float]] = []

    async def run() -> None:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=80)) as client:

            async def worker(number: int) -> None:
                for turn in range(6):
                    started = time.monotonic()
                    reply = await client.post(
                        f"{server.url}/v1/answer",
                        json={"question": server.questions[(6 * number + turn) % 300]},
                    )
                    after = float(reply.headers.get("retry-after", "0"))
                    statuses.append((reply.status_code, time.monotonic() - started, after))
                    if reply.status_code == 503:
                        assert reply.json()["error"]["code"] == "overloaded"
                        await asyncio.sleep(0.2)

            await asyncio.gather(*(worker(number) for number in range(5 * PLACES)))

    asyncio.run(run())
    answered, refused = (
        [seconds for status, seconds, _ in statuses if status == said] for said in (200, 503)
    )
    assert {status for status, _, _ in statuses} == {200, 503}
    assert all(after >= 1 for status, _, after in statuses if status == 503)
    assert median(refused) < median(answered) / 2
    assert post(server, "/v1/answer", {"question": server.questions[0]}).status_code == 200


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
            base_url=self.server.url, timeout=120, limits=limits, headers=self.headers
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


@pytest.mark.parametrize("deployment", ["llm", "retriever"])
def test_a_killed_replica_loses_no_whole_answer(server: Server, deployment: str) -> None:
    """There is one of each: what is asked meanwhile waits for the one that Serve starts."""
    from openai import APIError, OpenAI

    before = server.processes(f":{deployment}")[0].pid
    (engine,) = engines()
    load = Load(server, whole=4, streams=2)

    def kill_and_wait() -> None:
        if deployment == "llm":
            client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
            written = client.chat.completions.create(**LONG_CHAT, stream=True)
            next(written)
            server.kill(":llm")
            with pytest.raises(APIError, match="asking again is safe"):
                list(written)
        else:
            server.kill(":retriever")
        until(lambda: post(server, "/v1/answer", {"question": server.questions[0]}).is_success)

    asyncio.run(load.run(kill_and_wait))
    assert server.processes(f":{deployment}")[0].pid != before
    assert {status for status, _ in load.whole} == {200}
    assert len(load.whole) > 8
    assert load.ends[-1] == "answer"
    assert set(load.ends) <= {"answer", "error"}
    if deployment == "llm":
        until(lambda: ended(engine))  # with its replica


def test_a_killed_ingress_is_said_and_the_next_request_succeeds(server: Server) -> None:
    load = Load(server, whole=3, streams=3)  # less than one ingress takes
    before = {process.pid for process in server.processes(":ingress")}

    def kill_and_wait() -> None:
        server.kill(":ingress")
        until(lambda: any(p.pid not in before for p in server.processes(":ingress")))
        until(lambda: replicas("ingress") == 2)

    asyncio.run(load.run(kill_and_wait))
    failed = [body for status, body in load.whole if status != 200]
    assert {status for status, _ in load.whole} <= {200, 503}
    assert failed or "error" in load.ends or "503" in load.ends
    for body in failed:
        assert body["error"]["code"] == "replica_lost"
        assert "asking again is safe" in body["error"]["message"]
    assert set(load.ends) <= {"answer", "error", "503"}
    assert load.whole[-1][0] == 200
    assert load.ends[-1] == "answer"


def test_metrics_are_where_prometheus_finds_them(server: Server) -> None:
    import ray

    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = {
        'ray_steper_questions_total{.*outcome="answered"': 10,
        "ray_steper_answer_seconds_count": 10,
        'ray_steper_tokens_total{.*kind="cached"': 100,
        "ray_steper_search_seconds_count": 10,
        "ray_steper_generate_seconds_count": 10,
        'ray_steper_stops_total{.*reason="answered"': 10,
        "ray_vllm_num_requests_running": 0,
    }

    def there() -> bool:
        lines = httpx.get(address).text.splitlines()
        for pattern, least in wanted.items():
            values = [float(line.rsplit(" ", 1)[1]) for line in lines if re.match(pattern, line)]
            if not values or sum(values) < least:
                return False
        return True

    until(there)


def test_an_update_that_does_not_come_up_leaves_what_is_served(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The keys lie where the command runs, and not where the ingress does."""
    from ray import serve

    serve_section = server.config.serve.model_copy(update={"keys_file": str(tmp_path / "keys")})
    monkeypatch.setattr("steper_ray.serving.session.check_server", lambda _spec: None)
    before = [server.processes(name)[0].pid for name in (":llm", ":retriever")]
    with pytest.raises(StageError, match=r"keys_file: .*no such file.*logs/serve/"):
        update_server(server.config.model_copy(update={"serve": serve_section}))
    behind = {llm_app(server.spec), corpus_app(server.spec)}
    assert set(serve.status().applications) == {APP, *behind}
    assert [server.processes(name)[0].pid for name in (":llm", ":retriever")] == before
    answer = post(server, "/v1/answer", {"question": server.questions[0]})
    assert answer.status_code == 200


def test_keys_hold_under_a_route_prefix_too(server: Server, tmp_path: Path) -> None:
    """As `build` is served by a Serve config file with another `route_prefix`, beside the server."""
    from ray import serve

    from steper_ray.serving.keys import new_key

    keys = {"keys_file": str(tmp_path / "keys.yaml")}
    keyed = server_spec(
        server.config.model_copy(update={"serve": server.config.serve.model_copy(update=keys)})
    ).with_one_ingress()
    headers = {"authorization": f"Bearer {new_key(keyed.serve, 'alice')}"}
    ingress = build_ingress(keyed, llm_app(server.spec), corpus_app(server.spec))
    serve.run(ingress, name="student", route_prefix="/student")
    try:
        ask = {"question": server.questions[0]}
        for path in ("/v1/answer", "//v1/answer", "/v1/answer/", "/%76%31/answer", "/nothing"):
            refused = post(server, f"/student{path}", ask)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "no_key"), path
        assert post(server, "/%73tudent/v1/answer", ask).status_code == 401
        for path in ("", "/", "/page.js", "/docs", "/openapi.json", "/healthz", "/readyz"):
            reply = httpx.get(f"{server.url}/student{path}", follow_redirects=True)
            assert reply.status_code == 200, path
        answer = post(server, "/student/v1/answer", ask, headers=headers)
        assert answer.status_code == 200
        assert answer.json()["answer"] == post(server, "/v1/answer", ask).json()["answer"]
    finally:
        serve.delete("student")


def index_renamed(server: Server) -> CorpusInfo:
    """`steper index` where the server's corpus is, on the same passages with other ids."""
    rows = pq.read_table(Path(server.config.questions.test).with_name("passages.parquet"))
    ids = pa.array(f"new-{row}" for row in rows["id"].to_pylist())
    file = server.config.folder.root / "renamed.parquet"
    pq.write_table(rows.set_column(rows.schema.get_field_index("id"), "id", ids), file)
    corpus = server.config.corpus.model_copy(update={"passages": (str(file),)})
    return index_corpus(server.config.model_copy(update={"corpus": corpus}))


def test_an_update_to_another_student_and_corpus_fails_no_request(
    server: Server, tmp_path: Path
) -> None:
    """By the command itself; the new settings bring API keys with them. The last test of this server."""
    from ray import serve

    folder = tmp_path / "student-2"
    shutil.copytree(server.config.serve.model, folder)
    before = {APP, llm_app(server.spec), corpus_app(server.spec)}
    version, info = corpus_version(server.config.folder.corpus), index_renamed(server)
    assert info.version != version
    command = [sys.executable, "-m", "steper_ray.cli", "serve", "--config", str(TOY_RUN_FILE)]
    shared: dict[str, Any] = {
        "run.dir": server.config.folder.root,
        "build.teacher": server.config.build.teacher,
        "engine.cpus": 0.5,
        "serve.model": folder,
        "serve.port": server.config.serve.port,
        "serve.ingress_replicas": 2,
        "serve.max_concurrent": PLACES,
        "serve.request_timeout_s": 120,
        "serve.keys_file": tmp_path / "keys.yaml",
    }
    command += [word for key, value in shared.items() for word in ("--set", f"{key}={value}")]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return subprocess.run([*command, *more], capture_output=True, text=True, env=env)

    busy, alice = (run("--new-key", name).stdout.strip() for name in ("busy", "alice"))
    text = shared["serve.keys_file"].read_text()
    shared["serve.keys_file"].write_text(text + "  requests_per_minute: 20\n")  # alice is the last
    refused = run("--set", "engine.cpus=2", "--update")
    assert refused.returncode == 2
    assert "2.2 CPU are needed" in refused.stderr

    fewest = {"ingress": 2, "key-rates": 1}  # replicas that run

    def watch() -> None:
        for name in fewest:
            fewest[name] = min(fewest[name], replicas(name))

    def update() -> None:
        with ThreadPoolExecutor() as pool:
            updating = pool.submit(run, "--update")
            while not updating.done():
                watch()
                time.sleep(0.1)
        done = updating.result()
        assert done.returncode == 0, done.stderr
        assert "student-2 is served" in done.stdout

    load = Load(server, whole=2, streams=1, pause=0.2, key=busy)
    asyncio.run(load.run(update))
    assert [body for status, body in load.whole if status != 200] == []
    assert set(load.ends) == {"answer"}
    assert {body["model"] for _, body in load.whole} == {"teacher", "student-2"}
    assert load.whole[-1][1]["model"] == "student-2"
    for _, body in load.whole:
        passages = [passage for step in body["steps"] for passage in step["passages"]]
        new = body["model"] == "student-2"
        assert body["corpus_version"] == (info.version if new else version)
        assert {passage["id"].startswith("new-") for passage in passages} == {new}
    assert fewest == {"ingress": 2, "key-rates": 1}
    assert set(serve.status().applications) & before == {APP}
    assert len(serve.status().applications) == 3

    assert post(server, "/v1/search", {"query": "x"}).status_code == 401
    headers = {"authorization": f"Bearer {alice}"}
    started = time.monotonic()
    statuses = [
        post(server, "/v1/search", {"query": "x"}, headers=headers).status_code for _ in range(30)
    ]
    grown_back = (time.monotonic() - started) * 20 / 60
    assert 20 <= statuses.count(200) <= 20 + grown_back  # over both ingresses together
    assert set(statuses) == {200, 429}
