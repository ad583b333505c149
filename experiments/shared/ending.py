"""How several processes of one program begin and end: whoever is told to end tells the others, and all do."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import jax

from experiments.shared.work import Plan
from jaxprune import processes

GRACE = 5.0
"""Seconds in which a process that is told to end does so by itself."""


class LostError(BaseException):
    """A run failed here, and others do not come out of it: only a new start helps.

    No exception that a study might catch; its cause is what failed.

    Attributes:
      failure: what the others are told of it: {"run", "error", "traceback"}.
    """

    failure: dict[str, Any] | None = None


def joined() -> bool:
    """Joins the other processes of this program, if the environment names them; says whether there are any.

    Raises:
      ConnectionError: some did not come.
    """
    try:
        processes.start()
    except RuntimeError as error:
        raise ConnectionError(str(error)) from None
    return has_joined()


def has_joined() -> bool:
    """Whether there are other processes of this program."""
    # Not asked of JAX where it has not begun: it would take the devices.
    return jax.distributed.is_initialized() and processes.count() > 1


def remote(place: int, said: Mapping[str, str]) -> Exception:
    """What failed on another process, with its traceback."""
    error = RuntimeError(f"process {place} failed with {said['error']}")
    error.add_note(f"On process {place}:\n{said['traceback']}")
    return error


def note(plan: Plan, run: Any, error: BaseException | None) -> None:
    """Keeps why a run failed, where this process has the folder."""
    if plan.store is not None and isinstance(error, Exception):
        plan.store.fail(run, error)


def watch(plan: Callable[[], Plan | None]) -> Callable[[], None]:
    """Ends this process as soon as another one says that all are to end: by SIGTERM, and if that is in vain by force.

    Returns:
      What ends the watch.
    """
    done, main = threading.Event(), threading.main_thread().ident
    assert main is not None

    def wait() -> None:
        with suppress(jax.errors.JaxRuntimeError):  # the coordinator is gone
            while not done.is_set():
                if (said := processes.told("end", limit=1.0)) is not None:
                    if said["process"] == processes.index():
                        return
                    signal.pthread_kill(main, signal.SIGTERM)
                    # It may wait inside a program for those who have gone.
                    if not done.wait(GRACE):
                        _depart(said, plan())

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()

    def end() -> None:
        done.set()
        thread.join()

    return end


def reason() -> str:
    """Says why this process is told to end."""
    said = processes.told("end") if has_joined() else None
    return "stopped by SIGTERM" if said is None else f"ended with process {said['process']}"


def leave(code: int, plan: Plan | None, error: BaseException | None = None) -> NoReturn:
    """Ends all processes with an exit code, or with that of whoever was first; and this one now.

    Args:
      code: of this process.
      plan: of the study.
      error: why, where something failed.
    """
    said = {"code": code, "process": processes.index(), "failure": getattr(error, "failure", None)}
    _depart(processes.tell("end", said) or said, plan)


def _depart(said: dict[str, Any], plan: Plan | None) -> NoReturn:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):  # nothing more can be asked of it
            signal.signal(number, signal.SIG_IGN)
    processes.tell(f"end/{processes.index()}", True)
    if processes.is_first():
        if plan is not None and (failure := said["failure"]) is not None:
            note(plan, plan.runs[failure["run"]], remote(said["process"], failure))
        # JAX ends whoever is left when this process is gone, with a code of its own.
        end = time.monotonic() + 2 * GRACE
        for place in range(1, processes.count()):
            processes.told(f"end/{place}", limit=max(0.0, end - time.monotonic()))
        time.sleep(0.5)
    sys.stdout.flush()
    sys.stderr.flush()
    # XLA may be in the middle of a program, and waits in an interpreter that shuts down.
    os._exit(said["code"])
