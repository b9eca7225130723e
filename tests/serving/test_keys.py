"""API keys, from the file and the environment to the door; and the rate of a key, by hand."""

import hashlib
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from fastapi import WebSocket
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from steper_ray.errors import InputError
from steper_ray.serving.keys import (
    LOOK_AGAIN_S,
    Key,
    KeyRing,
    RateLimiter,
    environment_keys,
    hash_key,
    new_key,
    read_keys,
)
from steper_ray.serving.settings import ServeConfig
from tests.serving.backend import ScriptedBackend, api_over, client_of, service_over

ALICE, BOB = "alice-key-0123456789", "bob-key-0123456789"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def written(file: Path, **keys: Any) -> Path:
    """A keys file."""
    file.write_text(yaml.safe_dump({name: {"sha256": hash_key(key)} for name, key in keys.items()}))
    return file


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


# the file


def test_a_new_key_opens_and_only_its_hash_is_kept(file: Path) -> None:
    config = ServeConfig(keys_file=str(file))
    alice = new_key(config, "alice")
    bob = new_key(config, "bob")
    assert alice != bob
    assert min(len(alice), len(bob)) == 43  # 256 bits in base64
    assert yaml.safe_load(file.read_text()) == {
        "alice": {"sha256": hashlib.sha256(alice.encode()).hexdigest()},
        "bob": {"sha256": hashlib.sha256(bob.encode()).hexdigest()},
    }
    ring = KeyRing(config, {})
    assert [ring.owner(key) for key in (alice, bob, alice[:-1], "", hash_key(bob))] == [
        *("alice", "bob", None, None, None)
    ]


def test_a_new_key_leaves_the_other_keys_of_the_file(file: Path) -> None:
    file.write_text(f"alice:\n  sha256: {hash_key(ALICE)}\n  requests_per_minute: 7\n")
    new_key(ServeConfig(keys_file=str(file)), "bob")
    kept = read_keys(file)
    assert kept["alice"] == Key(sha256=hash_key(ALICE), requests_per_minute=7)
    assert list(kept) == ["alice", "bob"]


def test_new_keys_need_a_file_and_a_new_name(file: Path) -> None:
    with pytest.raises(InputError, match=r"serve.keys_file is not set"):
        new_key(ServeConfig(), "alice")
    written(file, alice=ALICE)
    before = file.read_text()
    with pytest.raises(InputError, match="alice has a key already"):
        new_key(ServeConfig(keys_file=str(file)), "alice")
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- alice", "not a file of keys"),
        ("alice: 0123", "not a file of keys"),
        ("alice: {sha256: [5]}", "not a file of keys"),
        ("alice: {sha256: abc}", "alice: sha256 must be 64 hexadecimal digits"),
        (f"alice: {{sha256: {hash_key(ALICE).upper()}}}", "64 hexadecimal digits"),
        (f"alice: {{sha256: {hash_key(ALICE)}, rate: 5}}", "not a file of keys"),
        (f"alice: {{sha256: {hash_key(ALICE)}, requests_per_minute: 0}}", "not a file of keys"),
        ("alice: {", "not a file of keys"),
        ("\xff\xfe", "not a file of keys"),
        ("!!python/object/apply:os.system [ls]", "not a file of keys"),
    ],
)
def test_a_file_that_is_none_is_refused_without_showing_it(
    file: Path, text: str, message: str
) -> None:
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as told:
        KeyRing(ServeConfig(keys_file=str(file)), {})
    assert message in str(told.value)
    assert str(file) in str(told.value)
    assert hash_key(ALICE) not in str(told.value).lower()


def test_a_missing_file_is_told_with_how_to_make_one(file: Path) -> None:
    with pytest.raises(
        InputError, match=r"no such file; make it with `steper serve --new-key NAME`"
    ):
        KeyRing(ServeConfig(keys_file=str(file)), {})
    with pytest.raises(InputError, match="not a file of keys"):
        read_keys(file.parent)


# the environment


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPER_KEYS", f" alice={ALICE}, ,bob={BOB}=,")
    keys = environment_keys("STEPER_KEYS")
    assert keys == {"alice": Key(sha256=hash_key(ALICE)), "bob": Key(sha256=hash_key(f"{BOB}="))}
    ring = KeyRing(ServeConfig(), keys)
    assert ring.required
    assert (ring.owner(ALICE), ring.owner(BOB)) == ("alice", None)


@pytest.mark.parametrize("value", [ALICE, f"={ALICE}", "alice=0123456789abcde", f"a={ALICE},{BOB}"])
def test_a_wrong_environment_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("STEPER_KEYS", value)
    with pytest.raises(InputError, match="STEPER_KEYS: expected name=key") as told:
        environment_keys("STEPER_KEYS")
    for secret in (ALICE, BOB, "0123456789"):
        assert secret not in str(told.value)


@pytest.mark.parametrize("value", [None, "", " , "])
def test_an_environment_without_keys_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("STEPER_KEYS", raising=False)
    if value is not None:
        monkeypatch.setenv("STEPER_KEYS", value)
    with pytest.raises(InputError, match="the environment variable STEPER_KEYS is not set"):
        environment_keys("STEPER_KEYS")


# the door


async def get(client: httpx.AsyncClient, authorization: str | None) -> httpx.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    return await client.get("/v1/models", headers=headers)


@pytest.mark.anyio
async def test_only_a_key_opens_the_api(file: Path) -> None:
    service = service_over(ScriptedBackend(), keys_file=str(written(file, alice=ALICE)))
    async with client_of(api_over(service, {"bob": Key(sha256=hash_key(BOB))})) as client:
        for right in (f"Bearer {ALICE}", f"bearer  {ALICE} ", f"BEARER {BOB}"):
            assert (await get(client, right)).status_code == 200
        for missing in (None, "", "Bearer", "Bearer ", f"Basic {ALICE}", ALICE):
            reply = await get(client, missing)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert reply.json()["error"]["code"] == "no_key"
            assert "Authorization: Bearer KEY" in reply.json()["error"]["message"]
        for wrong in (f"Bearer {ALICE}x", f"Bearer {hash_key(ALICE)}", "Bearer \xff", "Bearer a b"):
            reply = await client.get(
                "/v1/models", headers=[(b"authorization", wrong.encode("latin-1"))]
            )
            assert reply.status_code == 401
            assert reply.json()["error"]["code"] == "wrong_key"
            assert reply.json()["error"]["type"] == "authentication_error"
            assert ALICE not in reply.text
        for path in ("/v1/answer", "/v1/answers", "/v1/search", "/v1/chat/completions", "/v1/x"):
            assert (await client.post(path, json={})).status_code == 401
        for path in ("/", "/page.js", "/healthz", "/readyz", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/readyz")).json()["keys_required"] is True


OPEN: Final = (
    *("/", "/page.css", "/page.js", "/healthz", "/readyz", "/openapi.json"),
    *("/docs", "/docs/docs.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"),
)
"""Paths that need no key."""
CLOSED: Final = (
    *("/v1/answer", "/v1/answers", "/v1/search", "/v1/chat/completions", "/v1/models"),
    *("/v1/models/student", "/v1/x", "/v1", "/v1/", "/v2/answer", "/nothing", "/-/routes"),
    *("//v1/answer", "/v1//answer", "/v1/answer/", "/v1/answer//", "/./v1/answer"),
    *("/%76%31/answer", "/v1%2Fanswer", "%2Fv1/answer", "/v1/answer%2F", "/%2e%2e/v1/answer"),
    *("/V1/answer", "/v1/answer%00", "/v1/answer;x", "/v1\\answer", "/healthz/v1/answer"),
    *("/healthz/", "//healthz", "/healthz/%2e%2e/v1/answer", "/docs/", "/docs/x", "/page.py"),
)
"""Paths that need one, known or unknown, in odd forms too."""
MOUNTS: Final = (
    ("", ""),
    ("/student", "/student"),
    ("/student", ""),
    ("/v1", "/v1"),
    ("/a/b", "/a/b"),
)
"""root_path, and what of it is still in the path: uvicorn and Serve leave it, others do not."""


@pytest.mark.anyio
@pytest.mark.parametrize(("root_path", "prefix"), MOUNTS)
async def test_without_a_key_only_the_open_paths_answer_wherever_the_server_is_mounted(
    root_path: str, prefix: str
) -> None:
    backend = ScriptedBackend()
    api = api_over(service_over(backend), {"bob": Key(sha256=hash_key(BOB))})
    routes = {route.path for route in api.routes if isinstance(route, Route)}
    assert routes - set(OPEN) == {
        *("/v1/answer", "/v1/answers", "/v1/search", "/v1/chat/completions", "/v1/models"),
        "/v1/models/{name}",
    }
    here = f"http://test{prefix}"
    async with client_of(api, root_path=root_path) as client:
        for path in OPEN:
            assert (await client.get(here + path)).status_code == 200, path
        for path in CLOSED:
            for method in ("GET", "HEAD", "POST", "PUT", "options"):
                asked = httpx.Request(method, here + path, content=b'{"question": "Who?"}')
                asked.method = method  # httpx would write it in capitals
                reply = await client.send(asked)
                assert reply.status_code == 401, (method, path)
                assert reply.headers["x-error-code"] == "no_key"
        assert (await client.options(f"{here}/v1/answer")).status_code == 405  # as without keys
        if prefix:  # a browser is sent on to the page
            reply = await client.get(here)
            assert (reply.status_code, reply.headers["location"]) == (307, f"{here}/")
        assert backend.prompts == []
        key = {"authorization": f"Bearer {BOB}"}
        asked_well = await client.post(f"{here}/v1/answer", json={"question": "Who?"}, headers=key)
        assert asked_well.status_code == 200
        assert (await client.get(f"{here}/nothing", headers=key)).status_code == 404


@pytest.mark.anyio
async def test_a_path_that_only_begins_like_root_path_is_not_cut() -> None:
    api = api_over(service_over(ScriptedBackend()), {"bob": Key(sha256=hash_key(BOB))})
    async with client_of(api, root_path="/student") as client:
        for path in ("/students/healthz", "/student2", "/studenthealthz", "/x/student/healthz"):
            assert (await client.get(path)).status_code == 401, path


@pytest.mark.anyio
@pytest.mark.parametrize(("root_path", "prefix"), MOUNTS)
async def test_a_websocket_needs_a_key_too(root_path: str, prefix: str) -> None:
    api = api_over(service_over(ScriptedBackend()), {"bob": Key(sha256=hash_key(BOB))})

    @api.websocket("/v1/watch")  # the API has none yet
    async def watch(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    async def connect(path: str, *headers: tuple[bytes, bytes]) -> list[dict[str, Any]]:
        """What is sent to a client that connects."""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": prefix + path, "root_path": root_path}
        await api({**scope, "query_string": b"", "headers": headers}, receive, send)
        return sent

    for path in ("/v1/watch", "/v1/watch/", "//v1/watch", "/nothing"):
        (refusal,) = await connect(path)
        assert (refusal["type"], refusal["code"]) == ("websocket.close", 1008), path
        assert "Authorization: Bearer KEY" in refusal["reason"]
    (refusal,) = await connect("/v1/watch", (b"authorization", b"Bearer " + ALICE.encode()))
    assert refusal["code"] == 1008
    opened = await connect("/v1/watch", (b"authorization", b"Bearer " + BOB.encode()))
    assert [message["type"] for message in opened] == ["websocket.accept", "websocket.close"]


@pytest.mark.anyio
async def test_a_body_is_not_read_before_its_key() -> None:
    service = service_over(ScriptedBackend(), max_body_bytes=10)
    async with client_of(api_over(service, {"bob": Key(sha256=hash_key(BOB))})) as client:
        assert (await client.post("/v1/answer", content=b"x" * 11)).status_code == 401


def test_a_changed_file_counts_within_seconds_and_a_broken_one_not_at_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {
        name: written(tmp_path / name, alice=ALICE)
        for name in ("changed", "broken", "removed", "emptied")
    }
    carol = {"carol": Key(sha256=hash_key("carol"))}  # of the environment, whatever the file says
    clock = Clock()
    rings = {
        name: KeyRing(ServeConfig(keys_file=str(file)), carol, clock)
        for name, file in files.items()
    }

    def owners() -> dict[str, str]:
        """Whose keys open, by file."""
        return {
            name: " ".join(who for key in (ALICE, BOB, "carol") if (who := ring.owner(key)))
            for name, ring in rings.items()
        }

    assert owners() == dict.fromkeys(rings, "alice carol")
    written(files["changed"], bob=BOB)
    files["broken"].write_text("alice: {")
    files["removed"].unlink()
    files["emptied"].write_text("")
    assert owners() == dict.fromkeys(rings, "alice carol")  # nobody looks at every request
    clock.now += LOOK_AGAIN_S
    assert owners() == {
        "changed": "bob carol",
        "broken": "alice carol",
        "removed": "alice carol",
        "emptied": "carol",
    }
    said = caplog.text
    assert said.count("the keys stay as they were: ") == 2
    assert all(str(files[name]) in said for name in ("broken", "removed"))
    for name in ("broken", "removed"):
        written(files[name], bob=BOB)
    clock.now += LOOK_AGAIN_S
    assert owners() == {**dict.fromkeys(rings, "bob carol"), "emptied": "carol"}
    assert all(ring.required for ring in rings.values())


# the rate


def test_a_minutes_requests_may_come_at_once_then_one_a_second() -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    assert [limiter.take("alice", 60) for _ in range(60)] == [0.0] * 60
    assert limiter.take("alice", 60) == 1.0
    assert limiter.take("bob", 60) == 0.0  # each has a bucket of their own
    clock.now += 0.25
    assert limiter.take("alice", 60) == 0.75  # asking in vain costs nothing
    clock.now += 0.75
    assert limiter.take("alice", 60) == 0.0
    assert limiter.take("alice", 60) == 1.0
    clock.now += 2.5
    assert [limiter.take("alice", 60) for _ in range(3)] == [0.0, 0.0, 0.5]
    clock.now += 3600  # no more than a minute's is saved up
    assert [limiter.take("alice", 60) for _ in range(61)] == [*[0.0] * 60, 1.0]


def test_six_a_minute_are_one_in_ten_seconds() -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    assert [limiter.take("a", 6) for _ in range(7)] == [*[0.0] * 6, 10.0]
    clock.now += 4
    assert limiter.take("a", 6) == pytest.approx(6)
    clock.now += 6.001
    assert limiter.take("a", 6) == 0.0


def test_a_lower_rate_counts_at_once() -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    assert limiter.take("a", 60) == 0.0  # 59 are left
    assert [limiter.take("a", 2) for _ in range(3)] == [0.0, 0.0, 30.0]


@settings(deadline=None)
@given(
    st.integers(1, 100),
    st.lists(st.floats(0, 90, allow_nan=False), min_size=1, max_size=150),
)
def test_no_minute_has_more_than_twice_the_rate_and_waiting_is_enough(
    per_minute: int, pauses: list[float]
) -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    taken: list[float] = []
    for pause in pauses:
        clock.now += pause
        wait = limiter.take("a", per_minute)
        assert 0 <= wait <= 60 / per_minute
        if wait:
            clock.now += wait + 1e-6
            assert limiter.take("a", per_minute) == 0
        taken.append(clock.now)
    for end in taken:
        assert sum(end - 60 < at <= end for at in taken) <= 2 * per_minute


@pytest.mark.anyio
async def test_who_asks_too_often_is_told_when_to_come_back(file: Path) -> None:
    file.write_text(f"alice:\n  sha256: {hash_key(ALICE)}\n  requests_per_minute: 3\n")
    clock = Clock()
    limiter = RateLimiter(clock)
    asked: list[tuple[str, int]] = []

    async def take(owner: str, per_minute: int) -> float:
        asked.append((owner, per_minute))
        return limiter.take(owner, per_minute)

    service = service_over(ScriptedBackend(), keys_file=str(file), requests_per_minute=2)
    api = api_over(service, {"bob": Key(sha256=hash_key(BOB))}, take)
    async with client_of(api) as client:
        alice = [await get(client, f"Bearer {ALICE}") for _ in range(4)]
        assert [reply.status_code for reply in alice] == [200, 200, 200, 429]
        bob = [await get(client, f"Bearer {BOB}") for _ in range(3)]
        assert [reply.status_code for reply in bob] == [200, 200, 429]
        # the file's rate comes before the config's
        assert asked == [("alice", 3)] * 4 + [("bob", 2)] * 3
        assert (alice[-1].headers["retry-after"], bob[-1].headers["retry-after"]) == ("20", "30")
        error = alice[-1].json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate")
        assert error["message"] == "over 3 requests a minute; ask again later"
        clock.now += 19.5  # half a second is left of alice's wait
        again = await get(client, f"Bearer {ALICE}")
        assert (again.status_code, again.headers["retry-after"]) == (429, "1")
        clock.now += 0.6
        assert (await get(client, f"Bearer {ALICE}")).status_code == 200
        for path in ("/", "/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200
        await get(client, "Bearer wrong")
    assert len(asked) == 9  # a wrong key takes nothing from anybody


@pytest.mark.anyio
async def test_without_a_rate_nothing_is_counted() -> None:
    async def take(owner: str, per_minute: int) -> float:
        raise AssertionError("no rate is set")

    service = service_over(ScriptedBackend())
    api = api_over(service, {"bob": Key(sha256=hash_key(BOB))}, take)
    async with client_of(api) as client:
        replies = [await get(client, f"Bearer {BOB}") for _ in range(100)]
    assert {reply.status_code for reply in replies} == {200}
