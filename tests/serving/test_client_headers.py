"""Headers of clients that Serve would obey, and the id of a request."""

import re

import pytest

from steper_ray.serving.client_headers import checked_headers


def test_no_client_gives_serve_orders() -> None:
    """By the names that the installed Serve has for them."""
    from ray.serve._private import constants

    names = [
        constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER,
        constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER,
        constants.SERVE_MULTIPLEXED_MODEL_ID,
        f"{constants.SERVE_INGRESS_ROUTER_HEADER_PREFIX}replica",
    ]
    kept = [(b"content-type", b"application/json"), (b"accept", b"*/*")]
    for name in (*names, *(name.replace("_", "-") for name in names)):
        given = [kept[0], (name.encode(), b"1"), (name.upper().encode(), b"0"), kept[1]]
        assert checked_headers(given)[:-1] == kept, name


@pytest.mark.parametrize("name", ["x-session-id", "X-My_Session"])
def test_serve_sees_a_digest_of_a_session_and_its_key(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from ray.serve._private.http_util import _matches_session_id_header

    monkeypatch.setenv("RAY_SERVE_SESSION_ID_HEADER_KEY", name)
    monkeypatch.setattr("ray.serve._private.http_util.SERVE_SESSION_ID", name)

    def seen(session: bytes, key: bytes) -> bytes:
        given = [(b"authorization", key), (name.encode(), session)]
        (one,) = [value for key, value in checked_headers(given) if _matches(key)]
        return one

    def _matches(key: bytes) -> bool:
        return bool(_matches_session_id_header(key.decode()))

    assert seen(b"a", b"Bearer alice") == seen(b"a", b"Bearer alice")
    assert len({seen(b"a", b"alice"), seen(b"b", b"alice"), seen(b"a", b"bob")}) == 3
    assert re.fullmatch(b"[0-9a-f]{64}", seen(b"a", b"alice"))


@pytest.mark.parametrize("given", [b"a", b"7b0c-1.A_z", b"x" * 64])
def test_a_plain_id_of_a_client_is_kept(given: bytes) -> None:
    assert checked_headers([(b"x-request-id", given)]) == [(b"x-request-id", given)]


@pytest.mark.parametrize(
    "given", [b"", b"x" * 65, b"a b", b"a\n", b"a\x1b[31m", b"\xff", b"a=b", "\u0661".encode()]
)
def test_another_id_is_replaced(given: bytes) -> None:
    ((name, made),) = checked_headers([(b"x-request-id", given)])
    assert name == b"x-request-id"
    assert re.fullmatch(b"[0-9a-f]{32}", made)


def test_a_request_has_one_id() -> None:
    assert [name for name, _ in checked_headers([])] == [b"x-request-id"]
    ((_, made),) = checked_headers([(b"x-request-id", b"a"), (b"X-Request-ID", b"b")])
    assert re.fullmatch(b"[0-9a-f]{32}", made)
