"""API keys and their rate limits.

A key is 256 random bits, so a plain SHA-256 of it is safe to store: a stolen file cannot be turned back
into keys, and no slower hash is needed. The file is YAML, one key a name:

    alice:
      sha256: 9f86d0…
      requests_per_minute: 60     # optional

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
from pathlib import Path
from typing import Final

import yaml
from pydantic import PositiveInt, TypeAdapter, ValidationError

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


class Key(Section):
    """A key as the keys file has it."""

    sha256: str
    """Hash of the key, in hexadecimal."""
    requests_per_minute: PositiveInt | None = None
    """Limit of requests a minute; None takes `serve.requests_per_minute`."""


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
    values = {who: one.model_dump(exclude_none=True) for who, one in keys.items()}
    write_whole(file, yaml.safe_dump(values, sort_keys=False))
    return key


class KeyRing:
    """Keys that are valid for this server; a changed keys file takes effect within seconds."""

    def __init__(
        self,
        config: ServeConfig,
        from_environment: Keys,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """from_environment: keys of the environment that the server was started in

        Raises InputError for an unusable keys file.
        """
        self._clock = clock
        self._file = Path(config.keys_file) if config.keys_file else None
        self._from_environment = from_environment
        self._rate = config.requests_per_minute
        self._looked, self._stamp, self._keys = -math.inf, 0, dict(from_environment)
        if self._file is not None:
            self._keys |= read_keys(self._file)

    @property
    def required(self) -> bool:
        """Whether a request must have a key."""
        return bool(self._file or self._from_environment)

    def owner(self, key: str) -> str | None:
        """Owner of a key, None for an unknown one; constant time, so that timing does not help guessing."""
        digest = hash_key(key)
        found = None
        for name, known in self._current().items():
            if hmac.compare_digest(digest, known.sha256):
                found = name
        return found

    def rate(self, name: str) -> int | None:
        """Limit of an owner's requests a minute; None if there is none."""
        known = self._keys.get(name)
        return (known and known.requests_per_minute) or self._rate

    def _current(self) -> Keys:
        """Keys of the newest readable version of the file, and those of the environment."""
        now = self._clock()
        if self._file is None or now - self._looked < LOOK_AGAIN_S:
            return self._keys
        self._looked = now
        try:
            stamp = self._file.stat().st_mtime_ns
            if stamp != self._stamp:
                self._keys = self._from_environment | read_keys(self._file)
                self._stamp = stamp
        except (OSError, InputError) as error:
            logger.warning("the keys stay as they were: %s", error)
        return self._keys


@dataclass
class RateLimiter:
    """Token bucket of each owner: the requests of a minute may come all at once."""

    clock: Callable[[], float] = time.monotonic
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Owner → (requests remaining, time of that count)."""

    def take(self, name: str, per_minute: int) -> float:
        """Count one request; returns 0, or the seconds until the next request is allowed."""
        now = self.clock()
        left, then = self._buckets.get(name, (float(per_minute), now))
        left = min(float(per_minute), left + (now - then) * per_minute / 60)
        if left < 1:
            self._buckets[name] = (left, now)
            return (1 - left) * 60 / per_minute
        self._buckets[name] = (left - 1, now)
        return 0.0
