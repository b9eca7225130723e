"""The server in parts (layout `apart`) while they are damaged or replaced: real SIGKILL, real updates."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.errors import StageError
from steper_ray.retrieval import corpus_version
from steper_ray.retrieval.corpus import CorpusInfo
from steper_ray.run.versions import place_version, remove_old_versions, version_folder, versions
from steper_ray.serving.applications import end_applications, ingress_app, wait_while_served
from steper_ray.serving.deploy import build_ingress, corpus_app, llm_app
from steper_ray.serving.session import server_spec
from tests.processes import ended
from tests.samples import index_corpus
from tests.serving.conftest import LIMIT_S, PLACES, Server
from tests.serving.load import LONG_CHAT, Load, engines, post, replicas, until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]


def test_keys_hold_under_a_route_prefix_too(apart_server: Server, tmp_path: Path) -> None:
    """As `build` is served by a Serve config file with another `route_prefix`, beside the server."""
    from ray import serve

    from steper_ray.serving.keys import new_key

    keys = {"keys_file": str(tmp_path / "keys.yaml")}
    keyed = server_spec(
        apart_server.config.model_copy(
            update={"serve": apart_server.config.serve.model_copy(update=keys)}
        )
    ).with_one_ingress()
    headers = {"authorization": f"Bearer {new_key(keyed.serve, 'alice')}"}
    ingress = build_ingress(keyed, llm_app(apart_server.spec), corpus_app(apart_server.spec))
    others = set(serve.status().applications)
    serve.run(ingress, name=ingress_app("other"), route_prefix="/student")
    try:
        ask = {"question": apart_server.questions[0]}
        for path in ("/v1/answer", "//v1/answer", "/v1/answer/", "/%76%31/answer", "/nothing"):
            refused = post(apart_server, f"/student{path}", ask)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "no_key"), path
        assert post(apart_server, "/%73tudent/v1/answer", ask).status_code == 401
        for path in ("", "/", "/page.js", "/docs", "/openapi.json", "/healthz", "/readyz"):
            reply = httpx.get(
                f"{apart_server.url}/student{path}",
                headers={"host": "evil.example", "x-forwarded-proto": "https"},
            )
            if reply.status_code == 307:
                assert "http" not in reply.headers["location"]
                reply = httpx.get(f"{apart_server.url}/student{path}", follow_redirects=True)
            assert reply.status_code == 200, path
        assert httpx.head(f"{apart_server.url}/student/healthz").status_code == 200
        answer = post(apart_server, "/student/v1/answer", ask, headers=headers)
        assert answer.status_code == 200
        assert answer.json()["answer"] == post(apart_server, "/v1/answer", ask).json()["answer"]
    finally:  # another run's server, which ends nothing but itself
        end_applications("other", started=True, seconds=120)
    assert set(serve.status().applications) == others
    with pytest.raises(StageError, match=rf"the application {ingress_app('other')} is gone"):
        wait_while_served("other")


def test_a_killed_llm_and_a_killed_retriever_lose_no_whole_answer(apart_server: Server) -> None:
    """There is one of each: what is asked meanwhile waits for the one that Serve starts."""
    from openai import APIError, OpenAI

    until(lambda: len(engines()) == 1)  # Serve replaces a replica that a slow machine kept silent
    (engine,) = engines()
    names = (":llm", ":retriever")
    before = {name: apart_server.processes(name)[0].pid for name in names}
    load = Load(apart_server, whole=4, streams=2)

    def await_an_answer() -> None:
        ask = {"question": apart_server.questions[0]}
        until(lambda: post(apart_server, "/v1/answer", ask).is_success)

    def kill_and_wait() -> None:
        client = OpenAI(base_url=f"{apart_server.url}/v1", api_key="none", max_retries=0)
        written = client.chat.completions.create(**LONG_CHAT, stream=True)
        next(written)
        apart_server.kill(":llm")
        with pytest.raises(APIError, match="asking again is safe"):
            list(written)
        await_an_answer()
        apart_server.kill(":retriever")
        await_an_answer()

    asyncio.run(load.run(kill_and_wait))
    for name, pid in before.items():
        assert apart_server.processes(name)[0].pid != pid
    assert [body for status, body in load.whole if status != 200] == []
    assert len(load.whole) > 8
    assert load.ends[-1] == "answer"
    assert set(load.ends) <= {"answer", "error"}
    until(lambda: ended(engine))  # with its replica


def test_a_killed_ingress_is_said_and_the_next_request_succeeds(apart_server: Server) -> None:
    load = Load(apart_server, whole=3, streams=3)  # less than one ingress takes
    before = {process.pid for process in apart_server.processes(":ingress")}

    def kill_and_wait() -> None:
        apart_server.kill(":ingress")
        until(lambda: any(p.pid not in before for p in apart_server.processes(":ingress")))
        until(lambda: replicas(apart_server)["ingress"] == 2)

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


def index_renamed(apart_server: Server) -> CorpusInfo:
    """`steper index` where the server's corpus is, on the same passages with other ids."""
    rows = pq.read_table(Path(apart_server.config.questions.test).with_name("passages.parquet"))
    ids = pa.array(f"new-{row}" for row in rows["id"].to_pylist())
    file = apart_server.config.folder.root / "renamed.parquet"
    pq.write_table(rows.set_column(rows.schema.get_field_index("id"), "id", ids), file)
    corpus = apart_server.config.corpus.model_copy(update={"passages": (str(file),)})
    return index_corpus(apart_server.config.model_copy(update={"corpus": corpus}))


def test_an_update_to_another_student_and_corpus_fails_no_request(
    apart_server: Server, tmp_path: Path
) -> None:
    """By the command itself; the new settings bring API keys with them. The last test of this server."""
    from ray import serve

    link = tmp_path / "student"
    folder = version_folder(link, "0a" * 6)
    shutil.copytree(apart_server.config.serve.model, folder)
    place_version(link, folder)
    before = {
        ingress_app(apart_server.run),
        llm_app(apart_server.spec),
        corpus_app(apart_server.spec),
    }
    version, info = corpus_version(apart_server.config.folder.corpus), index_renamed(apart_server)
    assert info.version != version
    command = [sys.executable, "-m", "steper_ray.cli", "serve", "--config", str(TOY_RUN_FILE)]
    shared: dict[str, Any] = {
        "run.dir": apart_server.config.folder.root,
        "build.teacher": apart_server.config.build.teacher,
        "engine.cpus": 0.5,
        "serve.model": link,
        "serve.port": apart_server.config.serve.port,
        "serve.ingress_replicas": 2,
        "serve.max_concurrent": PLACES,
        "serve.request_timeout_s": LIMIT_S,
        "serve.body_timeout_s": 5,
        "serve.max_output_tokens": 800,
        "serve.layout": "apart",
        "serve.tool_parser": "pythonic",
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
        running = replicas(apart_server)
        for name in fewest:
            fewest[name] = min(fewest[name], running[name])

    def update() -> None:
        with ThreadPoolExecutor() as pool:
            updating = pool.submit(run, "--update")
            while not updating.done():
                watch()
                time.sleep(1)
        done = updating.result()
        assert done.returncode == 0, done.stderr
        assert "student is served" in done.stdout

    load = Load(
        apart_server, whole=1, streams=1, pause=1, key=busy
    )  # leaves the CPUs to the update
    asyncio.run(load.run(update))
    assert [body for status, body in load.whole if status != 200] == []
    assert set(load.ends) == {"answer"}
    assert {body["model"] for _, body in load.whole} == {"teacher", "student"}
    assert load.whole[-1][1]["model"] == "student"
    for _, body in load.whole:
        passages = [passage for step in body["steps"] for passage in step["passages"]]
        new = body["model"] == "student"
        assert body["corpus_version"] == (info.version if new else version)
        assert {passage["id"].startswith("new-") for passage in passages} == {new}
    assert fewest == {"ingress": 2, "key-rates": 1}
    assert set(serve.status().applications) & before == {ingress_app(apart_server.run)}
    assert len(serve.status().applications) == 3

    assert post(apart_server, "/v1/search", {"query": "x"}).status_code == 401
    headers = {"authorization": f"Bearer {alice}"}
    started = time.monotonic()
    statuses = [
        post(apart_server, "/v1/search", {"query": "x"}, headers=headers).status_code
        for _ in range(30)
    ]
    grown_back = (time.monotonic() - started) * 20 / 60
    assert 20 <= statuses.count(200) <= 20 + grown_back  # over both ingresses together
    assert set(statuses) == {200, 429}

    # Trained anew, twice: a replica that starts again loads what it served.
    for identity in ("1b" * 6, "2c" * 6):
        remove_old_versions(link)
        newer = version_folder(link, identity)
        newer.mkdir()
        place_version(link, newer)
    assert {folder, newer} <= set(versions(link))
    old = apart_server.processes(":llm")[0].pid
    apart_server.kill(":llm")
    headers = {"authorization": f"Bearer {busy}"}
    answer = post(
        apart_server, "/v1/answer", {"question": apart_server.questions[0]}, headers=headers
    )
    assert (answer.status_code, answer.json()["model"]) == (200, "student")
    assert apart_server.processes(":llm")[0].pid != old
