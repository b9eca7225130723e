"""Headers of a client's request as Serve may see them.

Serve's proxy obeys some headers whoever sends them: a client could turn off its deadline, keep work going
that nobody waits for, or choose the replica. A session's id ties requests to a replica, but not to one of
the client's choice: Serve sees a digest of it and of the client's key.
"""

import hashlib
import os
import re
import uuid
from collections.abc import Iterable
from typing import Final

ORDERS: Final = (
    b"x-request-disconnect-disabled",
    b"x-request-timeout-seconds",
    b"serve-multiplexed-model-id",
)
"""Headers that Serve obeys, as it compares them: in lower case, `-` and `_` being the same."""


ORDERS_OF_ROUTERS: Final = b"x-serve-router-"
"""How headers begin by which Serve's own request routers talk to it."""


SESSION: Final = ("RAY_SERVE_SESSION_ID_HEADER_KEY", "x-session-id")
"""Environment variable with the name of the header that ties requests to a replica, and its default."""


REQUEST_ID: Final = b"x-request-id"


PLAIN_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
"""Ids of clients that are taken over; they are written to logs."""


Headers = list[tuple[bytes, bytes]]


def checked_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers without orders to Serve, and with one id of the request, the client's if it is plain."""
    session = _compared(os.environ.get(*SESSION).encode())
    kept: Headers = []
    ids: list[bytes] = []
    sessions: list[bytes] = []
    keys: list[bytes] = []
    for name, value in headers:
        compared = _compared(name)
        if compared == REQUEST_ID:
            ids.append(value)
        elif compared == session:
            sessions.append(value)
        elif compared not in ORDERS and not compared.startswith(ORDERS_OF_ROUTERS):
            kept.append((name, value))
            if compared == b"authorization":
                keys.append(value)
    if sessions:
        digest = hashlib.sha256(repr((keys, sessions)).encode()).hexdigest()
        kept.append((session, digest.encode()))
    plain = len(ids) == 1 and PLAIN_ID.fullmatch(ids[0])
    return [*kept, (REQUEST_ID, ids[0] if plain else uuid.uuid4().hex.encode())]


def _compared(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")
