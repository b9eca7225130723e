"""vLLM's engine process, bound to end with the process that started it. Imports vLLM.

vLLM computes in a process of its own and ends it by a signal from the process that started it. A starter
that is killed sends none (Ray ends its actors by SIGKILL), and the engine would compute on for ever.
"""

import multiprocessing
import os
from threading import Thread
from typing import Any

from vllm.v1.engine import core
from vllm.v1.engine.core import EngineCoreProc


class BoundEngineProcess(EngineCoreProc):
    """vLLM's engine process under a watch on its parent."""

    @staticmethod
    def run_engine_core(*args: Any, **kwargs: Any) -> None:
        """Run vLLM's engine process under the watch."""
        Thread(target=_end_with_parent, daemon=True).start()
        EngineCoreProc.run_engine_core(*args, **kwargs)


def bind_engines() -> None:
    """Have every engine that vLLM starts from here end with this process, however it ends."""
    core.EngineCoreProc = BoundEngineProcess  # type: ignore[misc]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # a pipe that the system closes when the parent is gone, after SIGKILL too
    # at once: a step may take minutes, and nobody is left to read what it writes
    os._exit(1)
