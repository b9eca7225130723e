"""The fused server while it is damaged or replaced: real signals, a real update. Its last tests."""

import asyncio
import shutil
import signal
from pathlib import Path
from threading import Event

import httpx
import pytest

from steper_ray.errors import StageError
from steper_ray.serving.applications import ingress_app
from steper_ray.serving.session import update_server
from tests.processes import ended
from tests.serving.conftest import LIMIT_S, Server, Serving
from tests.serving.load import Load, engines, events, post, replicas, until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]


def test_a_killed_replica_is_said_and_another_takes_its_place(server: Server) -> None:
    (engine,) = engines()
    before = server.processes(":ingress")[0].pid
    load = Load(server, whole=3, streams=2)

    def kill_and_wait() -> None:
        server.kill(":ingress")
        until(lambda: any(p.pid != before for p in server.processes(":ingress")))
        until(lambda: post(server, "/v1/answer", {"question": server.questions[0]}).is_success)

    asyncio.run(load.run(kill_and_wait))
    failed = [body for status, body in load.whole if status != 200]
    assert {status for status, _ in load.whole} == {200, 503}
    assert {body["error"]["code"] for body in failed} <= {"replica_lost", "overloaded"}
    assert set(load.ends) <= {"answer", "error", "503"}
    assert load.whole[-1][0] == 200
    assert load.ends[-1] == "answer"
    until(lambda: ended(engine))  # with its replica


def test_an_engine_that_hangs_is_replaced(server: Server) -> None:
    (engine,) = engines()
    before = server.processes(":ingress")[0].pid
    engine.send_signal(signal.SIGSTOP)
    until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
    until(lambda: any(p.pid != before for p in server.processes(":ingress")))
    until(lambda: post(server, "/v1/answer", {"question": server.questions[0]}).is_success)
    until(lambda: ended(engine))
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_an_update_that_does_not_come_up_leaves_what_is_served(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The keys lie where the command runs, and not where the replica does."""
    from ray import serve

    serve_section = server.config.serve.model_copy(update={"keys_file": str(tmp_path / "keys")})
    monkeypatch.setattr("steper_ray.serving.session.check_server", lambda _spec: None)
    before = server.processes(":ingress")[0].pid
    with pytest.raises(StageError, match=r"keys_file: .*no such file.*logs/serve/"):
        update_server(server.config.model_copy(update={"serve": serve_section}))
    assert set(serve.status().applications) == {ingress_app(server.run)}
    assert server.processes(":ingress")[0].pid == before
    assert post(server, "/v1/answer", {"question": server.questions[0]}).is_success


def test_an_update_to_another_student_fails_no_request(server: Server, tmp_path: Path) -> None:
    from ray import serve

    student = tmp_path / "student"
    shutil.copytree(server.config.serve.model, student)
    section = server.config.serve.model_copy(update={"model": str(student)})
    before = server.processes(":ingress")[0].pid

    def update() -> None:
        update_server(server.config.model_copy(update={"serve": section}))

    load = Load(server, whole=1, streams=1, pause=1)  # leaves the CPUs to the update
    asyncio.run(load.run(update))
    assert [body for status, body in load.whole if status != 200] == []
    assert set(load.ends) == {"answer"}
    assert {body["model"] for _, body in load.whole} == {"teacher", "student"}
    assert load.whole[-1][1]["model"] == "student"
    assert set(serve.status().applications) == {ingress_app(server.run)}
    assert replicas(server)["ingress"] == 1
    assert before not in {process.pid for process in server.processes(":ingress")}


def test_an_end_loses_no_answer_and_refuses_the_rest(server: Server, serving: Serving) -> None:
    """What a first SIGTERM or Ctrl-C does. The last test of this server."""
    whole: list[tuple[int, str]] = []
    streams: list[str] = []
    refused_after: list[int] = []
    ending = Event()

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        stream = number % 2 == 0
        while True:
            body = {"question": server.questions[number], "stream": stream}
            late = ending.is_set()
            try:
                reply = await client.post("/v1/answer", json=body)
            except httpx.TransportError:  # the proxy is gone, after the last question
                assert late
                return
            if reply.status_code == 503 and reply.json()["error"]["code"] == "stopping":
                refused_after.append(int(reply.headers["retry-after"]))
                await asyncio.sleep(0.1)
            elif stream:
                told = [name async for name, _ in events(reply)]
                streams.append(told[-1] if told else str(reply.status_code))
            else:
                whole.append((reply.status_code, reply.text[:200]))

    async def run() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=LIMIT_S) as client:
            clients = [asyncio.create_task(ask(client, number)) for number in range(6)]
            while len(whole) < 3 or len(streams) < 3:
                await asyncio.sleep(0.05)
            ending.set()
            await asyncio.to_thread(serving.end)
            await asyncio.gather(*clients)

    asyncio.run(run())
    assert {status for status, _ in whole} == {200}, whole
    assert set(streams) == {"answer"}
    assert refused_after
    assert min(refused_after) >= 1
