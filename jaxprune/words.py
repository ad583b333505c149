"""Words that processes leave for each other in the store of JAX's coordinator: they need no device."""

import time
from typing import Any

import jax
from jax._src import distributed as _distributed

_TURN_OF, _CALLS_OF = "jaxprune/turn of {}", "jaxprune/calls of {} in turn {}"
_SLICE = 1.0  # seconds: Python hears no signal while JAX waits


def say(key: str, text: str, *, over: bool = False) -> bool:
    """Leaves a word for all processes.

    Args:
      key: its name.
      text: the word.
      over: whether it takes the place of one that is there.

    Returns:
      Whether it was left: False where there is one, which stays.
    """
    try:
        client().key_value_set(key, text, allow_overwrite=over)
    except jax.errors.JaxRuntimeError as error:
        if "ALREADY_EXISTS" not in str(error):
            raise
        return False
    return True


def heard(key: str, seconds: float) -> str | None:
    """Waits for a word; None where nobody left it within so many seconds, which may be infinite."""
    end = time.monotonic() + seconds
    # Asked for first, and once more in the end: a wait that is too short for an answer says nothing.
    while (found := there(key)) is None and (left := end - time.monotonic()) > 0:
        try:
            return client().blocking_key_value_get(key, max(1, int(1000 * min(left, _SLICE))))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
    return found


def there(key: str) -> str | None:
    """Reads a word; None where nobody has left it yet."""
    try:
        return client().key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" not in str(error):
            raise
        return None


def counted(process: int) -> str:
    """Counts a call of a process, and says which it is: the turn, and its number in that."""
    turn = there(_TURN_OF.format(process)) or "0"
    return f"{turn}/{client().key_value_increment(_CALLS_OF.format(process, turn), 1)}"


def count_anew(process: int) -> None:
    """Begins the next turn of a process."""
    turn = int(there(_TURN_OF.format(process)) or 0)
    say(_TURN_OF.format(process), str(turn + 1), over=True)


def client() -> Any:
    """The client of the coordinator.

    Raises:
      RuntimeError: JAX knows of no other process.
    """
    # JAX has no public name for it; orbax reads it here too.
    found = _distributed.global_state.client
    if found is None:
        raise RuntimeError("processes: expected jax.distributed to be initialised. Call jp.processes.start() first.")
    return found
