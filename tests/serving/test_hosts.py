"""Names of this machine's loopback, requests under foreign ones, and redirects that name no host."""

from typing import Any, Final
from urllib.parse import urljoin

import httpx
import pytest

from steper_ray.serving.hosts import names_loopback, relative_location
from steper_ray.serving.keys import Key, hash_key
from tests.serving.api_keys import BOB
from tests.serving.asking import refusal
from tests.serving.backend import ScriptedBackend, api_over, client_of, service_over

HERE: Final = (
    *("localhost", "localhost:8000", "LOCALHOST.", "app.localhost", "127.0.0.1:80", "127.8.9.1"),
    *("[::1]", "[::1]:8000", ""),
)
ELSEWHERE: Final = (
    *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"),
    *(
        "192.168.0.1",
        "0.0.0.0",
        "[::2]",
        "[::1",
        "a@b",
        "[",
        ":80",
        "2130706433",
    ),
)


@pytest.mark.parametrize("host", HERE)
def test_a_name_of_the_loopback(host: str) -> None:
    assert names_loopback(host)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_another_name(host: str) -> None:
    assert not names_loopback(host)


@pytest.mark.anyio
async def test_without_keys_a_loopback_server_answers_to_its_own_names_only() -> None:
    async with client_of(api_over(service_over(ScriptedBackend()))) as client:
        for path in ("/", "/healthz", "/v1/models"):
            for host in HERE[:-1]:
                reply = await client.get(path, headers={"host": host})
                assert reply.status_code == 200, (path, host)
            reply = await client.get(path, headers={"host": "evil.example"})
            assert "localhost only" in refusal(reply, 421, "wrong_host")
            assert "evil" not in reply.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("serve", "keys"),
    [
        ({"open": True}, {}),
        ({"host": "0.0.0.0", "open": True}, {}),
        ({}, {"bob": Key(sha256=hash_key(BOB))}),
    ],
)
async def test_every_name_is_answered_to_where_more_than_the_address_guards(
    serve: dict[str, Any], keys: dict[str, Key]
) -> None:
    api = api_over(service_over(ScriptedBackend(), **serve), keys)
    async with client_of(api) as client:
        reply = await client.get("/healthz", headers={"host": "answers.example"})
        assert reply.status_code == 200


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/student", "/student/"),
        ("/docs/", "/docs"),
        ("/v1/models/a b/", "/v1/models/a%20b"),
        ("/v1/models/a:b/", "/v1/models/a:b"),
        ("/a:b", "/a:b/"),
    ],
)
@pytest.mark.parametrize("hidden", ["", "/behind/a"])
def test_a_redirect_names_no_host(path: str, to: str, hidden: str) -> None:
    """Whatever the prefix is that a proxy has taken away, a browser comes to the path beside it."""
    location = relative_location(path, f"http://evil.example{to}?q=1")
    assert "evil.example" not in location.replace("/evil.example", "")
    assert not location.startswith(("/", "http"))
    led = urljoin(f"https://here{hidden}{httpx.URL(path='/x' + path).raw_path.decode()}", location)
    assert led.startswith(f"https://here{hidden}/x/")
    assert httpx.URL(led).path == httpx.URL(f"https://here{hidden}/x{to}").path
    assert led.endswith("?q=1")


def test_a_redirect_away_from_slashes_takes_all_of_them() -> None:
    assert relative_location("/docs//", "http://x/docs") == "../../docs"
    assert relative_location("//evil.example/", "http://x//evil.example") == "../evil.example"


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/student", "/student/docs/"])
async def test_the_api_s_redirects_reflect_no_host_and_no_scheme(path: str) -> None:
    api = api_over(service_over(ScriptedBackend(), open=True))
    async with client_of(api, root_path="/student") as client:
        headers = {"host": "evil.example", "x-forwarded-proto": "https"}
        reply = await client.get(path, headers=headers)
        assert reply.status_code == 307
        assert "evil" not in str(reply.headers.raw)
        assert "http" not in reply.headers["location"]
        followed = urljoin(f"https://proxy.example/hidden{path}", reply.headers["location"])
        assert followed.startswith("https://proxy.example/hidden/student")
        assert (await client.get(httpx.URL(followed).path.removeprefix("/hidden"))).is_success


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/docs", "/page.js"])
async def test_a_probe_may_ask_with_head(path: str) -> None:
    async with client_of(api_over(service_over(ScriptedBackend()))) as client:
        assert (await client.head(path)).status_code == 200
