"""Signals that end a training: the step is finished, the state saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Which signals came; false as long as none has."""

    def __init__(self) -> None:
        self._came: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._came)

    def __call__(self, number: int, _: Any = None) -> None:
        """Handles a signal."""
        self._came.append(number)
        if number == signal.SIGINT and self._came.count(number) > 1:
            raise KeyboardInterrupt  # the person does not want to wait

    @property
    def error(self) -> BaseException:
        """What the training ends with."""
        return KeyboardInterrupt() if self._came[0] == signal.SIGINT else SystemExit(143)


@contextmanager
def caught(*, interrupt: bool) -> Iterator[Stop]:
    """Turns SIGTERM, and with ``interrupt`` Ctrl-C, into a flag for as long as the loop runs; a second Ctrl-C raises.

    Python takes signals in its main thread only; elsewhere they keep their meaning.  So does an ignored SIGINT, as that
    of a job in the background of a shell.
    """
    stop, before = Stop(), {}
    try:
        if threading.current_thread() is threading.main_thread():
            before[signal.SIGTERM] = signal.signal(signal.SIGTERM, stop)
            if interrupt and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
        yield stop
    finally:
        for number, handler in before.items():
            # None: it was not set by Python, which cannot set it again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    # It came too late for the loop to see, which has saved all the same.
    if stop:
        raise stop.error
