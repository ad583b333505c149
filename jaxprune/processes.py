"""Processes: one program on many hosts, what they have to agree on, and how they wait for each other.

Whatever asks which process this is, waits for others, or brings an array that lies on several hosts to this one goes
through here.  Words go through the store of JAX's coordinator and need no device, so that whoever is missing can be
named; only ``read`` moves arrays.

With one process everything here returns at once.
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxprune import check, rendezvous, words

LIMIT = 60.0
"""Seconds that processes wait for each other, where ``start`` was told of no other number."""

# In the coordinator's store, so that nothing of it lives in this module.
_LIMIT_OF, _TOLD = "jaxprune/limit of {}", "jaxprune/told"
# Whoever waits for the first process waits longer than that one does for the others: it says who is missing.
_MARGIN = 5.0


def start(
    address: str | None = None, count: int | None = None, index: int | None = None, *, limit: float = LIMIT
) -> None:
    """Makes this process one of several, as its scheduler says; call it before anything else of JAX.

    On a TPU pod, under Slurm, Open MPI or Kubernetes no argument is needed, nor where JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID are set.  Where the environment names neither, and there are no arguments, this
    stays the only process.  Once it has been called it does nothing.

    Args:
      address: "host:port" of the first process.
      count: how many processes there are.
      index: which of them this is, from 0.
      limit: seconds that processes wait for each other, here and later.

    Raises:
      ValueError: some arguments, or some of these variables, without the others; a limit that is not positive.
      RuntimeError: JAX has begun alone already; or processes did not come within the limit, which it names.

    >>> start()
    >>> is_first()
    True
    """
    check.positive("limit", limit)
    given = (address, count, index)
    if any(one is None for one in given) and any(one is not None for one in given):
        raise ValueError(
            f"address, count, index: expected all of them or none, but got {given}. Without them the scheduler says so."
        )
    if jax.distributed.is_initialized():
        return
    if address is None or count is None or index is None:
        found = rendezvous.detected(limit)
        if found is None:
            return
        address, count, index = found
    if absent := rendezvous.missing(address, count, index, limit):
        raise RuntimeError(f"start: {_listed(absent)} of {count} did not come within {limit:g} s. {_REMEDY}")
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            initialization_timeout=int(np.ceil(limit)),
            heartbeat_timeout_seconds=max(100, int(limit)),
        )
    except RuntimeError as error:
        raise RuntimeError(
            f"start: JAX ran in this process before ({error}). Call jp.processes.start() before anything else of JAX, "
            "on every host."
        ) from error
    words.say(_LIMIT_OF.format(index), str(limit), over=True)
    meet("start")


def index() -> int:
    """Says which process this is, from 0."""
    return jax.process_index()


def count() -> int:
    """Counts the processes."""
    return jax.process_count()


def is_first() -> bool:
    """Says whether this is process 0."""
    return jax.process_index() == 0


def meet(what: str, *, limit: float | None = None) -> None:
    """Waits until all processes are here.

    Args:
      what: is going on, for errors.
      limit: seconds; None: what ``start`` was told.

    Raises:
      RuntimeError: some did not come, on every process that did; the message names them.
    """
    _exchanged(what, "", limit)


def agree(name: str, value: Any, *, limit: float | None = None) -> None:
    """Checks that all processes have the same value, such as settings, the fingerprint of data, or versions.

    Args:
      name: of the value, for errors.
      value: as JSON has it.
      limit: seconds; None: what ``start`` was told.

    Raises:
      ValueError: they differ, on every process; the message says who has what.
      RuntimeError: a process did not come.

    >>> agree("seed", 3)
    """
    check.choice("name", type(name).__name__, ("str",))
    found = _exchanged(f"agree on {name}", json.dumps(value, sort_keys=True), limit)
    if len(set(found)) > 1:
        groups: dict[str, list[int]] = {}
        for place, one in enumerate(found):
            groups.setdefault(one, []).append(place)
        shown = "; ".join(f"{_listed(places)} {_short(one)}" for one, places in groups.items())
        raise ValueError(
            f"{name}: expected the same on all {len(found)} processes, but {shown}. Start all of them with the same "
            "command, code, data and versions."
        )


def gathered(name: str, value: Any, *, limit: float | None = None) -> list[Any]:
    """Returns what every process says, in their order.

    Args:
      name: of the value, for errors.
      value: as JSON has it.
      limit: seconds, perhaps infinite; None: what ``start`` was told.

    Raises:
      RuntimeError: a process did not come.

    >>> gathered("host", "a")
    ['a']
    """
    return [json.loads(one) for one in _exchanged(name, json.dumps(value), limit)]


def realign() -> None:
    """Counts calls anew from here on, on every process: for what all come to, also where one has failed before.

    Processes take a call of ``meet``, ``agree``, ``gathered`` and ``first`` for the same one by its number, so whoever
    leaves one out is waited for in vain.  All have to call this equally often.

    >>> realign()
    """
    if count() > 1:
        words.count_anew(index())


def first(function: Callable[[], Any], *, what: str = "first", limit: float | None = None) -> Any:
    """Calls a function on process 0 alone, and returns its result on all of them: for files that all share.

    The function must not use JAX: a program on devices of all processes would wait for the others, which wait for it.

    Args:
      function: returns what JSON can write.
      what: it does, for errors.
      limit: seconds that the others wait; None: what ``start`` was told.

    Raises:
      RuntimeError: it failed on process 0, where its own error is raised; or process 0 did not come.

    >>> first(lambda: [1, "a"])
    [1, 'a']
    """
    if count() == 1:
        return function()
    key = _next(what)
    if is_first():
        try:
            result = function()
            said = {"result": result}
            words.say(key, json.dumps(said))
        except BaseException as error:
            words.say(key, json.dumps({"error": f"{type(error).__name__}: {error}"}))
            raise
        return result
    said = words.heard(key, _seconds(limit))
    if said is None:
        raise RuntimeError(f"{what}: process 0 did not come within {_seconds(limit):g} s. {_REMEDY}")
    found = json.loads(said)
    if "error" in found:
        raise RuntimeError(f"{what}: process 0 failed with {found['error']}")
    return found["result"]


def read(tree: Any) -> Any:
    """Brings arrays to this host, whole, wherever their parts lie: a tree of NumPy arrays.

    Every process has to call it, with the same tree: parts that lie on other hosts are sent to all.

    >>> read({"w": jax.numpy.ones(2)})
    {'w': array([1., 1.], dtype=float32)}
    """
    return jax.tree.map(_read, tree)


def demand_shared(name: str, folder: str | os.PathLike[str]) -> None:
    """Checks that all processes see what process 0 writes into a folder; it has to be there.

    Raises:
      ValueError: some do not, or process 0 cannot write there, on every process; the message names them.
      RuntimeError: a process did not come.
    """
    path = Path(folder)
    marked, refused = first(lambda: _marked(path), what=name)
    if refused is not None:
        raise ValueError(
            f"{name}: process 0 cannot write in {str(path)!r} ({refused}). Choose a folder on a disk of all hosts that "
            "it may write to."
        )
    mark = path / marked
    sees = gathered(name, os.access(mark, os.F_OK))  # False too where it must not look
    first(lambda: mark.unlink(missing_ok=True), what=name)
    if blind := [place for place, seen in enumerate(sees) if not seen]:
        raise ValueError(
            f"{name}: expected one that all {len(sees)} processes share, but {_listed(blind)} has not seen what "
            f"process 0 wrote into {str(path)!r}. Choose one on a disk of all hosts, by its whole path."
        )


def tell(name: str, value: Any) -> Any:
    """Tells all processes something, once, without waiting for them; returns what is told: of several, the first.

    Args:
      name: of it.
      value: as JSON has it.
    """
    if count() == 1:
        return value
    words.say(f"{_TOLD}/{name}", json.dumps(value))
    return told(name)


def told(name: str, *, limit: float = 0.0) -> Any:
    """Returns what a process has told by ``tell``; None where none has, within so many seconds."""
    found = None if count() == 1 else words.heard(f"{_TOLD}/{name}", limit)
    return None if found is None else json.loads(found)


def stopping(step: int, wanted: bool = False) -> bool:
    """Says whether all processes are to stop after this step: because one of them was told to.

    Every process calls it at every step; all get the same answer at the same step, one at which none was told yet to
    go on beyond it.  With several processes JAX hears SIGTERM of each, unless Python was given a handler of its own.

    Args:
      step: its number.
      wanted: whether this process was told to stop, where it is the only one.
    """
    if count() == 1:
        return wanted
    return bool(multihost_utils.reached_preemption_sync_point(step))


# ------------------------------------------------------------------------------------------------------------- below

_REMEDY = "Look whether it runs, and whether it took the same way; the limit is an argument of jp.processes.start."


def _read(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.asarray(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _marked(path: Path) -> tuple[str, str | None]:
    """Leaves a file in a folder: (its name, why that cannot be)."""
    name = f".tmp-{uuid.uuid4().hex}"
    try:
        (path / name).touch()
    except OSError as error:
        return name, error.strerror or str(error)
    return name, None


def _exchanged(what: str, said: str, limit: float | None) -> list[str]:
    """What every process said: the first one hears all, and tells all what it heard, or who is missing."""
    if count() == 1:
        return [said]
    key, seconds = _next(what), _seconds(limit)
    words.say(f"{key}/{index()}", said)
    if is_first():
        end = time.monotonic() + seconds
        heard = [words.heard(f"{key}/{place}", max(0.0, end - time.monotonic())) for place in range(count())]
        words.say(f"{key}/all", json.dumps(heard))
    else:
        told = words.heard(f"{key}/all", seconds + _MARGIN)
        heard = [None] if told is None else json.loads(told)
    missing = [place for place, one in enumerate(heard) if one is None]
    if missing:
        raise RuntimeError(f"{what}: {_listed(missing)} did not come within {seconds:g} s. {_REMEDY}")
    return [one for one in heard if one is not None]


def _next(what: str) -> str:
    # The same number on all of them, or somebody took another way; what it is about is part of it, so that those who
    # did do not take each other for the same one.
    return f"jaxprune/{words.counted(index())}/{what}"


def _seconds(limit: float | None) -> float:
    if limit is not None:
        return limit
    told = words.there(_LIMIT_OF.format(index()))
    return LIMIT if told is None else float(told)  # somebody else has initialised JAX, and named none


def _listed(places: Sequence[int]) -> str:
    numbers = ", ".join(map(str, places))
    return f"process{'es' if len(places) > 1 else ''} {numbers}"


def _short(text: str) -> str:
    return f"{'has' if len(text) < 200 else 'has, among others,'} {text[:200]}"
