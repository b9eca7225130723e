"""API keys and their rate limits.

A key is 256 random bits, so a plain SHA-256 of it is safe to store: a stolen file cannot be turned back
into keys, and no slower hash is needed. The file is YAML, one key a name:

    alice:
      sha256: 9f86d0…
      requests_per_minute: 60     # this and what follows is optional
      max_share: 0.5
      scopes: [search]
      expires: 2027-01-31

Keys in an environment variable are in plain text, `alice=…,bob=…`, and are hashed when they are read.
"""

import hashlib
import hmac
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import AfterValidator, Field, PositiveInt, TypeAdapter, ValidationError

from steper_ray.errors import InputError
from steper_ray.files import write_whole
from steper_ray.run.section import Section
from steper_ray.run.yaml_text import load_yaml
from steper_ray.serving.settings import ServeConfig

logger = logging.getLogger(__name__)


LOOK_AGAIN_S: Final = 2.0
"""Seconds between two looks at the keys file."""


SHORTEST: Final = 16
"""Smallest accepted length of a key in the environment variable, in characters."""


Scope = Literal["answer", "search", "plain"]
"""What a key may ask for: answers of the whole loop, searches, or chats with the plain model."""


def _in_utc(moment: datetime) -> datetime:
    """A time without a zone is meant in UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Key(Section):
    """A key as the keys file has it."""

    sha256: str
    """Hash of the key, in hexadecimal."""
    requests_per_minute: PositiveInt | None = None
    """Limit of requests a minute; None takes `serve.requests_per_minute`."""
    max_share: float | None = Field(default=None, gt=0, le=1)
    """Largest share of an ingress's places; None takes `serve.max_key_share`."""
    scopes: tuple[Scope, ...] | None = Field(default=None, min_length=1)
    """What the key may ask for; None is everything."""
    expires: Annotated[datetime, AfterValidator(_in_utc)] | None = None
    """Date or time from which on the key is not valid, in UTC unless it has a zone."""


Keys = dict[str, Key]
"""Owner → key."""


def hash_key(key: str) -> str:
    """The hash under which a key is stored."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(file: Path) -> Keys:
    """Keys of a keys file; raises InputError if the file cannot be read as one."""
    try:
        values = load_yaml(file.read_text(encoding="utf-8-sig"), Keys) or {}
        keys = TypeAdapter(Keys).validate_python(values)
    except FileNotFoundError:
        raise InputError(
            f"serve.keys_file: {file}: no such file; make it with `steper serve --new-key NAME`"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError):
        raise InputError(
            f"serve.keys_file: {file}: not a file of keys (name: {{sha256: …}})"
        ) from None
    wrong = next(
        (name for name, key in keys.items() if not re.fullmatch("[0-9a-f]{64}", key.sha256)), None
    )
    if wrong is not None:
        raise InputError(f"serve.keys_file: {file}: {wrong}: sha256 must be 64 hexadecimal digits")
    return keys


def environment_keys(name: str) -> Keys:
    """Keys of an environment variable; raises InputError, which shows no key, if the variable has none."""
    keys: Keys = {}
    for part in filter(None, (part.strip() for part in os.environ.get(name, "").split(","))):
        who, equals, key = part.partition("=")
        if not equals or not who or len(key) < SHORTEST:
            raise InputError(
                f"serve.keys_env: {name}: expected name=key, separated by commas, each key of at least "
                f"{SHORTEST} characters"
            )
        keys[who] = Key(sha256=hash_key(key))
    if not keys:
        raise InputError(f"serve.keys_env: the environment variable {name} is not set")
    return keys


def new_key(config: ServeConfig, name: str) -> str:
    """A new key for `name`, whose hash is added to `serve.keys_file`; the key itself is stored nowhere.

    Raises InputError if the setting is empty, or for a name that has a key.
    """
    if not config.keys_file:
        raise InputError("serve.keys_file is not set; name the file that keys are kept in")
    file = Path(config.keys_file)
    keys = read_keys(file) if file.exists() else {}
    if name in keys:
        raise InputError(f"{file}: {name} has a key already; remove it there to give another")
    key = secrets.token_urlsafe(32)
    keys[name] = Key(sha256=hash_key(key))
    values = {who: one.model_dump(mode="json", exclude_none=True) for who, one in keys.items()}
    write_whole(file, yaml.safe_dump(values, sort_keys=False))
    return key


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Who a key belongs to, and what it allows."""

    name: str
    requests_per_minute: int | None
    max_share: float
    scopes: tuple[Scope, ...] | None
    expired: bool

    def may(self, scope: Scope) -> bool:
        """Whether the key may ask for this."""
        return self.scopes is None or scope in self.scopes


class KeyRing:
    """Keys that are valid for this server; a changed keys file takes effect within seconds.

    The keys of a file that is gone or cannot be read are revoked: removing a file must not leave its keys
    valid. Those of the environment stay.
    """

    def __init__(
        self,
        config: ServeConfig,
        from_environment: Keys,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """from_environment: keys of the environment that the server was started in
        clock: says when to look at the file again; now: says which keys have expired

        Raises InputError for an unusable keys file.
        """
        self._clock, self._now = clock, now
        self._file = Path(config.keys_file) if config.keys_file else None
        self._from_environment = from_environment
        self._rate, self._share = config.requests_per_minute, config.max_key_share
        self._looked = -math.inf
        self._stamp: tuple[int, int, int] | None = None
        self._wrong = ""
        """Why the keys of the file are revoked; empty while they are valid."""
        self._keys = dict(from_environment)
        if self._file is not None:
            self._keys |= read_keys(self._file)

    @property
    def required(self) -> bool:
        """Whether a request must have a key."""
        return bool(self._file or self._from_environment)

    def owner(self, key: str) -> KeyOwner | None:
        """Owner of a key, None for an unknown one; constant time, so that timing does not help guessing."""
        digest = hash_key(key)
        owner = None
        for name, known in self._current().items():
            if hmac.compare_digest(digest, known.sha256):
                owner = KeyOwner(
                    name,
                    known.requests_per_minute or self._rate,
                    known.max_share or self._share,
                    known.scopes,
                    expired=known.expires is not None and known.expires <= self._now(),
                )
        return owner

    def _current(self) -> Keys:
        """Keys of the file as it is, and those of the environment."""
        now = self._clock()
        if self._file is None or now - self._looked < LOOK_AGAIN_S:
            return self._keys
        self._looked = now
        try:
            state = self._file.stat()
            stamp = (state.st_mtime_ns, state.st_size, state.st_ino)
            if stamp != self._stamp:
                self._keys = self._from_environment | read_keys(self._file)
                self._stamp = stamp
                if self._wrong:
                    logger.warning("the keys of %s are valid again", self._file)
                self._wrong = ""
        except (OSError, InputError) as error:
            if str(error) != self._wrong:
                logger.error("all keys of the file are revoked: %s", error)
            self._keys, self._stamp = dict(self._from_environment), None
            self._wrong = str(error)
        return self._keys


@dataclass
class RateLimiter:
    """Token bucket of each owner: the requests of a minute may come all at once."""

    clock: Callable[[], float] = time.monotonic
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Owner → (requests remaining, time of that count)."""

    def take(self, name: str, per_minute: int, requests: int = 1) -> float:
        """Count requests; returns 0, or counts none and returns the seconds until so many are allowed.

        requests: at most `per_minute`, which is what a bucket holds
        """
        now = self.clock()
        left, then = self._buckets.get(name, (float(per_minute), now))
        left = min(float(per_minute), left + (now - then) * per_minute / 60)
        if left < requests:
            self._buckets[name] = (left, now)
            return (requests - left) * 60 / per_minute
        self._buckets[name] = (left - requests, now)
        return 0.0
