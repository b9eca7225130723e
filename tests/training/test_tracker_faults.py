"""Trackers that fail while training goes on: MLflow's client against a server that is down, fails or hangs,
and TensorBoard without its folder."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from steper_ray.training import metrics, tracker_feed
from steper_ray.training.metrics import METRICS_FILE, MetricsWriter
from tests.training.tracked import at, board_points, losses, single_precision, wait_until


class MlflowServer(ThreadingHTTPServer):
    """The endpoints of MLflow's REST interface that a run calls, in memory."""

    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Endpoints)
        self.fails = False
        self.hangs = False
        self.released = Event()
        self.created = 0
        self.params: dict[str, str] = {}
        self.losses: list[tuple[int, float]] = []
        self.status = ""


class Endpoints(BaseHTTPRequestHandler):
    server: MlflowServer

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, sent: dict[str, Any]) -> None:
        server, call = self.server, urlsplit(self.path).path.rpartition("mlflow/")[2]
        if server.hangs:
            server.released.wait(60)
            return None
        if server.fails:
            return self._send(500, {"error_code": "INTERNAL_ERROR", "message": "no room"})
        answer: dict[str, Any] = {}
        info = {
            "run_id": "r1",
            "run_uuid": "r1",
            "experiment_id": "0",
            "status": server.status or "RUNNING",
        }
        if call == "experiments/get-by-name":
            answer = {"experiment": {"experiment_id": "0", "name": "Default"}}
        elif call == "runs/create":
            server.created += 1
            answer = {"run": {"info": info}}
        elif call == "runs/get":
            answer = {"run": {"info": info}}
        elif call == "runs/update":
            server.status = sent["status"]
            answer = {"run_info": info}
        else:
            assert call == "runs/log-batch", call
            server.params |= {param["key"]: param["value"] for param in sent.get("params", ())}
            for metric in sent.get("metrics", ()):
                if metric["key"] == "train/loss":
                    server.losses.append((metric["step"], metric["value"]))
        return self._send(200, answer)

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextmanager
def mlflow_server(port: int) -> Iterator[MlflowServer]:
    with MlflowServer(port) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def port(alone: None, monkeypatch: pytest.MonkeyPatch) -> int:
    """Where MLflow is told to send to; nobody listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{number}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracker_feed, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(tracker_feed, "LONGEST_WAIT", 0.2)
    return number


def write(writer: MetricsWriter, *steps: int) -> None:
    """No step waits for a tracker."""
    started = time.monotonic()
    for step in steps:
        writer.write(at(step))
    assert time.monotonic() - started < 1


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [one for one in caplog.records if one.name.startswith("steper_ray")]
    return [one.getMessage() for one in ours if one.levelno == logging.WARNING]


def test_what_a_server_missed_is_sent_when_it_is_back(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    writer = MetricsWriter(tmp_path, 0, trackers=["mlflow"], settings={"lr": 1})
    write(writer, 1, 2, 3)
    wait_until(lambda: len(warnings(caplog)) == 1)
    time.sleep(0.5)  # tried again, without another word
    (said,) = warnings(caplog)
    assert said.startswith("mlflow: metrics cannot be sent (")
    with mlflow_server(port) as server:
        wait_until(lambda: server.losses == losses(3))
        server.fails = True
        write(writer, 4, 5)
        wait_until(lambda: len(warnings(caplog)) == 2)
        assert "log-batch" in warnings(caplog)[1]
        server.fails = False
        wait_until(lambda: server.losses == losses(5))
        write(writer, 6)
        writer.close()
        assert server.losses == losses(6)
        assert server.params == {"lr": "1"}
        assert (server.created, server.status) == (1, "FINISHED")
    assert len(warnings(caplog)) == 2


def test_what_could_not_be_sent_is_said_and_sent_by_a_training_that_goes_on(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with mlflow_server(port) as server:
        writer = MetricsWriter(tmp_path, 0, trackers=["mlflow"])
        write(writer, 1)
        wait_until(lambda: server.losses == losses(1))
    write(writer, 2, 3)
    writer.close()
    first, last = warnings(caplog)
    assert first.startswith("mlflow: metrics cannot be sent (")
    assert last.startswith("mlflow: 2 steps could not be sent (")
    assert last.endswith(f"{tmp_path / METRICS_FILE} has all steps")
    rows = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]
    with mlflow_server(port) as server:
        resumed = MetricsWriter(tmp_path, 3, trackers=["mlflow"])
        write(resumed, 4)
        resumed.close()
        assert server.losses == losses(4)[1:]
        assert server.created == 0


def test_training_ends_in_time_whatever_a_server_does(
    tmp_path: Path,
    port: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "CLOSING_SECONDS", 1.0)
    with mlflow_server(port) as server:
        server.hangs = True
        writer = MetricsWriter(tmp_path, 0, trackers=["mlflow", "tensorboard"])
        write(writer, 1, 2)
        wait_until(lambda: "train/loss" in board_points(tmp_path)[0])
        started = time.monotonic()
        writer.close()
        assert time.monotonic() - started < 20
        (said,) = (line for line in warnings(caplog) if line.startswith("mlflow"))
        assert said.startswith("mlflow: 2 steps could not be sent (no answer in time); ")
    assert board_points(tmp_path)[0]["train/loss"] == single_precision(losses(2))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's
def test_tensorboard_goes_on_when_its_folder_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracker_feed, "FIRST_WAIT", 0.05)
    folder, aside = tmp_path / "tensorboard", tmp_path / "aside"
    folder.write_text("a file where the folder should be")
    writer = MetricsWriter(tmp_path, 0, trackers=["tensorboard"])
    write(writer, 1)
    wait_until(lambda: len(warnings(caplog)) == 1)
    folder.unlink()
    wait_until(lambda: "train/loss" in board_points(tmp_path)[0])
    write(writer, 2)
    wait_until(lambda: len(board_points(tmp_path)[0]["train/loss"]) == 2)
    folder.rename(aside)
    folder.write_text("again")
    write(writer, 3, 4)
    wait_until(lambda: len(warnings(caplog)) == 2)
    folder.unlink()
    aside.rename(folder)
    write(writer, 5)
    writer.close()
    scalars, _ = board_points(tmp_path)
    assert scalars["train/loss"] == single_precision(losses(5))
    assert len(warnings(caplog)) == 2
