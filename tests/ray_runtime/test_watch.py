"""Calls while a block runs."""

import sys
import threading
from threading import Event

import pytest

from steper_ray.ray_runtime.watch import calling_every


def test_the_function_is_called_while_the_block_runs_and_not_after_it() -> None:
    called = Event()
    calls: list[int] = []

    def look() -> None:
        calls.append(len(calls))
        called.set()

    with calling_every(0.001, look):
        assert called.wait(60)
    after = len(calls)
    called.clear()
    assert not called.wait(0.05)
    assert len(calls) == after > 0


def test_an_error_of_the_function_is_told_and_leaves_the_block_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[threading.ExceptHookArgs] = []
    failed = Event()

    def tell(arguments: threading.ExceptHookArgs) -> None:
        told.append(arguments)
        failed.set()

    def fail() -> None:
        raise ValueError("no progress")

    monkeypatch.setattr(threading, "excepthook", tell)
    with calling_every(0.001, fail):
        assert failed.wait(60)
    assert [str(arguments.exc_value) for arguments in told] == ["no progress"]
    assert sys.exc_info() == (None, None, None)


def test_no_call_runs_on_after_an_error_of_the_block() -> None:
    called = Event()

    def fail() -> None:
        with calling_every(0.001, called.set):
            assert called.wait(60)
            raise KeyError("block")

    with pytest.raises(KeyError, match="block"):
        fail()
    called.clear()
    assert not called.wait(0.05)
