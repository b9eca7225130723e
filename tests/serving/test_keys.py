"""API keys from the file and the environment; the rate of a key, by hand."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from steper_ray.errors import InputError
from steper_ray.serving.keys import (
    LOOK_AGAIN_S,
    Key,
    KeyOwner,
    KeyRing,
    RateLimiter,
    environment_keys,
    hash_key,
    new_key,
    read_keys,
)
from steper_ray.serving.settings import ServeConfig
from tests.serving.api_keys import ALICE, BOB, Clock, written


def name_of(ring: KeyRing, key: str) -> str | None:
    """Whose key it is."""
    owner = ring.owner(key)
    return owner.name if owner else None


def owner_of(ring: KeyRing, key: str) -> KeyOwner:
    """Who a key belongs to, which it must."""
    owner = ring.owner(key)
    assert owner is not None
    return owner


# the file


def test_a_new_key_opens_and_only_its_hash_is_kept(keys_file: Path) -> None:
    config = ServeConfig(keys_file=str(keys_file))
    alice = new_key(config, "alice")
    bob = new_key(config, "bob")
    assert alice != bob
    assert min(len(alice), len(bob)) == 43  # 256 bits in base64
    assert yaml.safe_load(keys_file.read_text()) == {
        "alice": {"sha256": hashlib.sha256(alice.encode()).hexdigest()},
        "bob": {"sha256": hashlib.sha256(bob.encode()).hexdigest()},
    }
    ring = KeyRing(config, {})
    assert [name_of(ring, key) for key in (alice, bob, alice[:-1], "", hash_key(bob))] == [
        *("alice", "bob", None, None, None)
    ]


def test_a_new_key_leaves_the_other_keys_of_the_file(keys_file: Path) -> None:
    keys_file.write_text(f"alice:\n  sha256: {hash_key(ALICE)}\n  requests_per_minute: 7\n")
    new_key(ServeConfig(keys_file=str(keys_file)), "bob")
    kept = read_keys(keys_file)
    assert kept["alice"] == Key(sha256=hash_key(ALICE), requests_per_minute=7)
    assert list(kept) == ["alice", "bob"]


def test_new_keys_need_a_file_and_a_new_name(keys_file: Path) -> None:
    with pytest.raises(InputError, match=r"serve.keys_file is not set"):
        new_key(ServeConfig(), "alice")
    written(keys_file, alice=ALICE)
    before = keys_file.read_text()
    with pytest.raises(InputError, match="alice has a key already"):
        new_key(ServeConfig(keys_file=str(keys_file)), "alice")
    assert keys_file.read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- alice", "not a file of keys"),
        ("alice: 0123", "not a file of keys"),
        ("alice: {sha256: [5]}", "not a file of keys"),
        ("alice: {sha256: abc}", "alice: sha256 must be 64 hexadecimal digits"),
        (f"alice: {{sha256: {hash_key(ALICE).upper()}}}", "64 hexadecimal digits"),
        (f"alice: {{sha256: {hash_key(ALICE)}, rate: 5}}", "not a file of keys"),
        (
            f"alice: {{sha256: {hash_key(ALICE)}, requests_per_minute: 0}}",
            "not a file of keys",
        ),
        (f"alice: {{sha256: {hash_key(ALICE)}, scopes: []}}", "not a file of keys"),
        (f"alice: {{sha256: {hash_key(ALICE)}, scopes: [admin]}}", "not a file of keys"),
        (f"alice: {{sha256: {hash_key(ALICE)}, expires: soon}}", "not a file of keys"),
        (f"alice: {{sha256: {hash_key(ALICE)}, max_share: 1.5}}", "not a file of keys"),
        ("alice: {", "not a file of keys"),
        ("\xff\xfe", "not a file of keys"),
        ("!!python/object/apply:os.system [ls]", "not a file of keys"),
    ],
)
def test_a_file_that_is_none_is_refused_without_showing_it(
    keys_file: Path, text: str, message: str
) -> None:
    keys_file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as told:
        KeyRing(ServeConfig(keys_file=str(keys_file)), {})
    assert message in str(told.value)
    assert str(keys_file) in str(told.value)
    assert hash_key(ALICE) not in str(told.value).lower()


def test_a_missing_file_is_told_with_how_to_make_one(keys_file: Path) -> None:
    with pytest.raises(
        InputError, match=r"no such file; make it with `steper serve --new-key NAME`"
    ):
        KeyRing(ServeConfig(keys_file=str(keys_file)), {})
    with pytest.raises(InputError, match="not a file of keys"):
        read_keys(keys_file.parent)


# the environment


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPER_KEYS", f" alice={ALICE}, ,bob={BOB}=,")
    keys = environment_keys("STEPER_KEYS")
    assert keys == {"alice": Key(sha256=hash_key(ALICE)), "bob": Key(sha256=hash_key(f"{BOB}="))}
    ring = KeyRing(ServeConfig(), keys)
    assert ring.required
    assert (name_of(ring, ALICE), name_of(ring, BOB)) == ("alice", None)


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


def test_a_changed_file_counts_within_seconds_and_a_broken_or_missing_one_revokes_its_keys(
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
            name: " ".join(who for key in (ALICE, BOB, "carol") if (who := name_of(ring, key)))
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
        "broken": "carol",
        "removed": "carol",
        "emptied": "carol",
    }
    clock.now += LOOK_AGAIN_S
    owners()
    said = caplog.text
    assert said.count("all keys of the file are revoked: ") == 2  # once for each file
    assert all(str(files[name]) in said for name in ("broken", "removed"))
    for name in ("broken", "removed"):
        written(files[name], bob=BOB)
    clock.now += LOOK_AGAIN_S
    assert owners() == {**dict.fromkeys(rings, "bob carol"), "emptied": "carol"}
    assert caplog.text.count("are valid again") == 2
    assert all(ring.required for ring in rings.values())


def test_a_key_says_what_it_is_for_and_until_when(keys_file: Path) -> None:
    keys_file.write_text(
        f"alice: {{sha256: {hash_key(ALICE)}, expires: 2027-01-31, scopes: [search, plain]}}\n"
        f"bob: {{sha256: {hash_key(BOB)}, max_share: 0.25, expires: 2027-01-31T01:00:00+02:00}}\n"
    )
    now = datetime(2027, 1, 30, 22, 59, tzinfo=UTC)
    config = ServeConfig(keys_file=str(keys_file), max_key_share=0.5, requests_per_minute=7)
    ring = KeyRing(config, {}, now=lambda: now)
    alice, bob = owner_of(ring, ALICE), owner_of(ring, BOB)
    assert alice == KeyOwner("alice", 7, 0.5, ("search", "plain"), expired=False)
    assert bob == KeyOwner("bob", 7, 0.25, None, expired=False)
    assert (alice.may("answer"), alice.may("search"), alice.may("plain")) == (False, True, True)
    assert bob.may("answer")
    now = datetime(2027, 1, 30, 23, tzinfo=UTC)  # one in the morning where bob's key was made
    assert [name for name, key in (("a", ALICE), ("b", BOB)) if owner_of(ring, key).expired] == [
        "b"
    ]
    now = datetime(2027, 1, 31, tzinfo=UTC)
    assert all(owner_of(ring, key).expired for key in (ALICE, BOB))
    carol = new_key(config, "carol")  # the limits of the others stay
    assert KeyRing(config, {}, now=lambda: now).owner(ALICE) == replace(alice, expired=True)
    assert KeyRing(config, {}).owner(carol) == KeyOwner("carol", 7, 0.5, None, expired=False)


# the rate


def test_several_requests_are_counted_all_or_none() -> None:
    limiter = RateLimiter(Clock())
    assert limiter.take("alice", 60, 50) == 0.0
    assert (
        limiter.take("alice", 60, 20) == 10.0
    )  # ten are left, ten more are a matter of ten seconds
    assert limiter.take("alice", 60, 10) == 0.0


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
