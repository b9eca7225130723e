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
        constants.SERVE_SESSION_ID,
        f"{constants.SERVE_INGRESS_ROUTER_HEADER_PREFIX}replica",
    ]
    kept = [(b"content-type", b"application/json"), (b"accept", b"*/*")]
    for name in (*names, *(name.replace("_", "-") for name in names)):
        given = [kept[0], (name.encode(), b"1"), (name.upper().encode(), b"0"), kept[1]]
        assert checked_headers(given)[:-1] == kept, name


def test_a_session_id_of_another_name_is_taken_away_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_SESSION_ID_HEADER_KEY", "X-My_Session")
    assert len(checked_headers([(b"x-my-session", b"a"), (b"x_my_session", b"b")])) == 1


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
