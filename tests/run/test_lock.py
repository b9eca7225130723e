"""One writer at a time, in real processes: living, killed, stopped, and as seen from another machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from steper_ray.errors import InputError
from steper_ray.run.lock import BEAT_S, STALE_S, Lease, check_free, locked, read_owner

HOLD = """
import sys, time
from contextlib import nullcontext
from pathlib import Path
from steper_ray.run import lock
out, where, beat_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
if where == "elsewhere":  # another machine, on storage that grants flock on each by itself
    lock.this_machine = lambda: where
    lock._flocked = lambda out: nullcontext()
try:
    with lock.locked(out, beat_s=beat_s, stale_s=1):
        print("held", flush=True)
        time.sleep(60)
except BaseException as error:
    print(f"{type(error).__name__}: {error}", flush=True)
"""


@contextmanager
def holder(out: Path, where: str = "here", beat_s: float = 0.1) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of `out`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out), where, str(beat_s)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_second_writer_is_refused_by_name_and_a_killed_one_is_not_waited_for(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run" / "chains"
    with locked(out), pytest.raises(InputError, match="another command is writing"), locked(out):
        pass
    with holder(out) as process:
        owner = rf"-c .*\(process {process.pid} on .*, since 20.* UTC\); wait for it"
        with pytest.raises(InputError, match=owner), locked(out):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (out.parent / "chains.lease").exists()
        started = time.monotonic()
        with locked(out):
            assert time.monotonic() - started < BEAT_S
            assert names(out.parent) == {"chains.lock", "chains.lease"}
    assert names(out.parent) == {"chains.lock"}


def test_a_process_id_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "chains.lease")
    text = (tmp_path / "chains.lease").read_text()
    lease.release()
    owner = read_owner(tmp_path / "chains.lease")
    assert owner is None
    earlier = text.replace('"started": ', '"started": -')
    (tmp_path / "chains.lease").write_text(earlier)
    with locked(tmp_path / "chains"):
        assert read_owner(tmp_path / "chains.lease") != owner


def test_a_writer_on_another_machine_is_known_by_its_heartbeat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "chains"
    with holder(out, "elsewhere") as process:
        os.utime(tmp_path / "chains.lease", (0, 0))  # whatever the clocks say
        with pytest.raises(InputError, match=f"process {process.pid} on"), locked(out):
            pass
        assert "its lease is watched for a sign of life, 60 s at most" in capsys.readouterr().out
        process.send_signal(signal.SIGKILL)
        process.wait()
        started = time.monotonic()
        with locked(out, stale_s=1):
            assert time.monotonic() - started >= 1


def test_a_writer_that_was_stopped_too_long_ends_when_it_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "chains"
    with holder(out, "elsewhere") as process:
        process.send_signal(signal.SIGSTOP)
        with locked(out, stale_s=1):
            process.send_signal(signal.SIGCONT)
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said.startswith(f"StageError: {out}: ")
            assert f"process {os.getpid()} on" in said
            assert "has taken over the writing" in said
            process.wait()
            with pytest.raises(InputError, match="another command"), locked(out):
                pass


def test_a_lease_that_its_owner_never_wrote_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "chains.lease").touch()  # killed between making and writing it
    with locked(tmp_path / "chains", stale_s=0.3):
        assert read_owner(tmp_path / "chains.lease") is not None


def test_a_lease_that_somebody_removed_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "chains.lease"
    with locked(tmp_path / "chains", beat_s=0.05):
        file.unlink()
        until = time.monotonic() + 10
        while read_owner(file) is None:
            assert time.monotonic() < until
            time.sleep(0.02)
    assert not file.exists()


def test_a_silence_is_many_heartbeats() -> None:
    assert STALE_S >= 10 * BEAT_S


def test_a_look_before_anything_is_spent_refuses_too_and_holds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run" / "student"
    check_free(out)
    assert not out.parent.exists()
    with holder(out), pytest.raises(InputError, match="another command is writing to it: -c"):
        check_free(out)
    check_free(out)  # it was killed, and its lease is still there
    with locked(out):
        pass
