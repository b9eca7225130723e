"""What is told of requests that have ended: errors in the log, the access log, metrics of bounded tags."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steper_ray.serving.access_log import Access, access_file
from steper_ray.serving.api.routes import build_api
from steper_ray.serving.keys import Key, KeyOwner, KeyRing, hash_key
from steper_ray.serving.request import ServedRequest
from steper_ray.serving.request_report import OWNERS, RequestReport
from tests.serving.api_keys import ALICE
from tests.serving.asking import ASKED, CHAT, LOST, STREAMED
from tests.serving.backend import TWO_STEPS, ScriptedBackend, client_of, service_over

pytestmark = pytest.mark.anyio

ID = "7b0c-1"


class Told:
    """An API with a key of alice's, and what it tells."""

    def __init__(self, backend: ScriptedBackend, **options: Any) -> None:
        self.lines: list[Access] = []
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.service = service_over(backend, record=self._record, **options)
        ring = KeyRing(self.service.config, {"alice": Key(sha256=hash_key(ALICE))})

        async def take(owner: str, per_minute: int, requests: int) -> float:
            return 0

        self.api = build_api(self.service, ring, take, self.lines.append)

    def _record(self, name: str, value: float, **tags: str) -> None:
        if name == "steper_requests_total":
            self.counts[tags["route"], tags["code"], tags["owner"]] += int(value)

    async def post(self, path: str, body: Any) -> Any:
        headers = {"authorization": f"Bearer {ALICE}", "x-request-id": ID}
        async with client_of(self.api) as client:
            return await client.post(path, json=body, headers=headers)


async def test_an_error_is_logged_with_the_id_of_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for backend, said in (
        (ScriptedBackend([[KeyError("broken")]]), f"request {ID}: POST /v1/answer failed"),
        (ScriptedBackend([[LOST]]), f"request {ID}: /v1/answer ended with 503 replica_lost"),
    ):
        caplog.clear()
        await Told(backend).post("/v1/answer", ASKED)
        assert said in caplog.text
    assert "KeyError: 'broken'" not in caplog.text
    caplog.clear()
    await Told(ScriptedBackend([["A", LOST]])).post("/v1/answer", STREAMED)
    assert f"request {ID}: /v1/answer ended with 200 replica_lost" in caplog.text
    caplog.clear()
    await Told(ScriptedBackend()).post("/v1/answer", ASKED)
    await Told(ScriptedBackend(), places=0).post("/v1/answer", ASKED)
    assert ID not in caplog.text


async def test_each_request_is_told_of_with_what_it_took() -> None:
    usage = '{"usage": {"prompt_tokens": 3, "total_tokens": 8, "completion_tokens": 5}}'
    told = Told(ScriptedBackend(TWO_STEPS, chatting=[usage]))
    await told.post("/v1/answer", ASKED)
    await told.post("/v1/answer", STREAMED)
    await told.post("/v1/chat/completions", CHAT)
    await told.post("/v1/answer", {"question": 5})
    await told.post("/v1/nothing", {})
    async with client_of(told.api) as client:
        await client.post("/v1/answer", json=ASKED, headers={"authorization": "Bearer wrong"})
        await client.get("/healthz")
        await client.get("/made/up")
    seen = [
        (one.owner, one.method, one.route, one.status, one.code, one.tokens) for one in told.lines
    ]
    assert seen == [
        ("alice", "POST", "/v1/answer", 200, "ok", 35),
        ("alice", "POST", "/v1/answer", 200, "ok", 35),
        ("alice", "POST", "/v1/chat/completions", 200, "ok", 8),
        ("alice", "POST", "/v1/answer", 422, "invalid", 0),
        ("alice", "POST", "other", 404, "not_found", 0),
        ("", "POST", "/v1/answer", 401, "wrong_key", 0),
        ("", "GET", "other", 401, "no_key", 0),
    ]
    assert all(one.id == ID for one in told.lines[:5])
    assert re.fullmatch("[0-9a-f]{32}", told.lines[5].id)
    assert all(0 <= one.seconds < 5 for one in told.lines)
    assert told.counts["/v1/answer", "ok", "alice"] == 2
    assert told.counts["/v1/answer", "wrong_key", "none"] == 1
    assert told.counts["/healthz", "ok", "none"] == 1


async def test_tags_are_bounded() -> None:
    owners: set[str] = set()
    report = RequestReport(lambda *_args, **tags: owners.add(tags["owner"]))
    for number in range(2 * OWNERS):
        owner = KeyOwner(str(number), None, 1.0, None, expired=False)
        request = ServedRequest(owner=owner)
        report.tell({"type": "http", "method": "GET", "path": "/x"}, request, 200, 0.1)
    assert len(owners) == OWNERS + 1
    assert "other" in owners


def test_the_access_log_has_a_line_for_each_request(tmp_path: Path) -> None:
    access = Access(
        "2026-01-01T00:00:00.000+00:00", ID, "al ice", "POST", "/v1/answer", 200, "ok", 35, 0.4
    )
    write = access_file(tmp_path / "text.log", "text")
    write(access)
    assert (tmp_path / "text.log").read_text() == (
        '2026-01-01T00:00:00.000+00:00 id=7b0c-1 owner="al ice" method=POST route=/v1/answer '
        "status=200 code=ok tokens=35 seconds=0.4\n"
    )
    write = access_file(tmp_path / "json.log", "json")
    write(access)
    write(access)
    lines = (tmp_path / "json.log").read_text().splitlines()
    assert [json.loads(line)["owner"] for line in lines] == ["al ice"] * 2
