"""Calls while a block runs."""

from threading import Event

import pytest

from steper_ray.ray_runtime.watch import calling_every


def test_the_function_is_called_while_the_block_runs_and_once_more_at_its_end() -> None:
    called = Event()
    calls: list[int] = []

    def look() -> None:
        calls.append(len(calls))
        called.set()

    with calling_every(0.001, look):
        assert called.wait(60)
        before = len(calls)
    assert len(calls) > before
    after = len(calls)
    called.clear()
    assert not called.wait(0.05)
    assert len(calls) == after


def test_an_error_of_the_function_is_raised_at_the_end_of_the_block() -> None:
    failed = Event()

    def fail() -> None:
        failed.set()
        raise ValueError("no progress")

    with pytest.raises(ValueError, match="no progress"), calling_every(0.001, fail):
        failed.wait(60)


def test_an_error_of_the_block_comes_first() -> None:
    def fail() -> None:
        raise ValueError("no progress")

    with pytest.raises(KeyError, match="block"), calling_every(0.001, fail):
        raise KeyError("block")
