"""What the execution of a study may keep besides its results: compiled programs, and a trace of some seconds."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

SECONDS = 5.0
"""How long a trace is: a few hundred steps of a small network, which a viewer can still show."""


def keep_programs(folder: Path | None) -> None:
    """Has JAX keep every compiled program in a folder, and look there first; None: as it is set up."""
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class Profiled:
    """Measures runs, and writes a trace of the beginning of the second one.

    Args:
      measure: what measures a run.
      folder: where the trace goes.
      seconds: at most so much of the run.
    """

    def __init__(self, measure: Callable[..., Any], folder: Path, seconds: float = SECONDS) -> None:
        self._measure, self._folder, self._seconds, self._number = measure, folder, seconds, 0

    def __call__(self, *given: Any) -> Any:
        """Measures a run."""
        self._number += 1
        if self._number != 2:
            return self._measure(*given)
        done = threading.Event()
        jax.profiler.start_trace(str(self._folder))
        stopping = threading.Thread(target=lambda: (done.wait(self._seconds), jax.profiler.stop_trace()))
        stopping.start()
        try:
            return self._measure(*given)
        finally:
            done.set()
            stopping.join()
