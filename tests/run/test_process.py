"""Processes told apart from later ones with their id."""

import os
import subprocess
import sys
import time

from steper_ray.run.process import process_runs, process_started


def test_a_process_is_known_until_it_ends_and_a_zombie_does_not_run() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_started(process.pid)
    assert started is not None
    assert process_runs(process.pid, started)
    assert not process_runs(process.pid, started - 100)  # an earlier one with its id
    assert started >= (process_started(os.getpid()) or 0.0)
    process.kill()
    deadline = time.monotonic() + 10
    while process_runs(process.pid, started):  # it is not waited for: a zombie
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.communicate()
    assert process_started(process.pid) is None
