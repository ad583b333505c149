"""Breaks things on purpose, and counts what is lost: ``python scripts/faults.py`` prints a row for each fault.

Arguments choose among them (``F1 F4``); ``--small`` is the size that the tests run.  ``--processes``: those of several
processes of one JAX program, which take minutes.  The exit code is 1 where a row breaks its promise.
"""

import argparse
import collections
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faults_processes
import faults_study

from jaxprune import sweep
from jaxprune.store import Store


@dataclass(frozen=True)
class Run:
    """A run that does nothing."""

    seed: int
    rate: float = 0.5


class Row:
    """What was counted, and which of the counts break their promise."""

    def __init__(self) -> None:
        self.counts: dict[str, Any] = {}
        self.broken: list[str] = []

    def count(self, name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> None:
        """Adds a count, and what was promised of it."""
        self.counts[name] = value
        self.broken += [] if isinstance(value, str) or least <= value <= most else [name]

    def __str__(self) -> str:
        text = " ".join(f"{name}={value}" for name, value in self.counts.items())
        return text + (f" BROKEN: {', '.join(self.broken)}" if self.broken else "")


def work(store: Store, runs: Sequence[Any], compute: Callable[[Any], Mapping[str, Any]]) -> int:
    """Does runs as studies do them; every run is a group of its own."""
    return sweep.work(store, runs, lambda _, run: compute(run), shared=lambda run: run)


def _fork(action: Callable[[], int]) -> int:
    """Starts a process that ends with what the action returns, or with 255 where it raises; says its number."""
    with warnings.catch_warnings():
        # JAX and Python warn of threads that the child lacks; it uses none of theirs.
        warnings.simplefilter("ignore")
        child = os.fork()
    if child:
        return child
    code = 255
    try:
        code = action()
    finally:
        os._exit(code)


def _append(path: Path, line: str) -> None:
    """Adds a line to a file that many processes write to, at once."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


class _Counted(Store):
    """A store that writes down what was published, and what another process had published before."""

    def write(self, config: Any, metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> bool:
        published = super().write(config, metrics, provenance)
        _append(self.folder / "log", f"{'published' if published else 'beaten'} {config.seed}")
        return published


def leftovers(store: Store) -> int:
    """Counts claims and unfinished files."""
    return sum(1 for path in store.folder.rglob("*") if path.parent.name == "claims" or path.name.startswith(".tmp-"))


def kills(folder: Path, small: bool) -> Row:
    """F1: workers are killed at random moments, and others come in their place."""
    keys, workers, wanted, job = (60, 4, 10, 0.005) if small else (2000, 8, 100, 0.02)
    store, source = _Counted(folder, "squares"), random.Random(0)
    runs = [Run(seed) for seed in range(keys)]

    def compute(run: Run) -> dict[str, float]:
        _append(folder / "log", f"executed {run.seed}")
        time.sleep(job)
        return {"square": run.seed**2}

    def start() -> int:
        # Each begins at another place, so that not all of them ask for the same run.
        first = source.randrange(keys)
        return _fork(lambda: 0 * work(store, [*runs[first:], *runs[:first]], compute))

    alive, killed, faults = {start() for _ in range(workers)}, 0, 0
    while alive:
        # The last is killed when about two thirds of the runs are done.
        time.sleep(source.uniform(0.0, 1.3 * keys * job / workers / wanted))
        if killed < wanted:
            os.kill(source.choice(sorted(alive)), signal.SIGKILL)
            killed += 1
        for child in sorted(alive):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                alive.remove(child)
                faults += os.WIFEXITED(status) and status != 0
                alive |= {start()} if os.WIFSIGNALED(status) else set()
    store.sweep()
    lines = collections.Counter((folder / "log").read_text().splitlines())
    kinds = collections.Counter(line.split()[0] for line in lines.elements())
    twice = sum(number > 1 for line, number in lines.items() if line.startswith("published"))
    row = Row()
    row.count("lost", sum(not _is_right(store, run) for run in runs), most=0)
    row.count("twice", twice + kinds["beaten"], most=0)
    row.count("executed", kinds["executed"], least=keys, most=keys + wanted)
    row.count("leftovers", leftovers(store), most=0)
    row.count("kills", killed, least=wanted)
    row.count("faults", faults, most=0)
    return row


def _is_right(store: Store, run: Run) -> bool:
    return store.has(run) and store.read(run)["metrics"] == {"square": run.seed**2}


def _damage(source: random.Random, content: bytes, other: bytes) -> bytes:
    """Damages the bytes of a record, or takes those of another."""
    place, kind = source.randrange(len(content)), source.randrange(8)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return source.choice([b"", b"{}", b"[]", b"null", b"[" * 100_000, source.randbytes(300), b"\0" * len(content)])
    if kind == 2:
        return other
    record = json.loads(content)
    if kind == 3:
        record["metrics"]["square"] += 1
    elif kind == 4:
        record["provenance"]["process"] += 1
    elif kind == 5:
        record[source.choice(["study", "version", "data", "schema", "digest"])] = "other"
    else:
        return content[:place] + bytes([content[place] ^ 1 << source.randrange(8)]) + content[place + 1 :]
    return json.dumps(record).encode()


def damage(folder: Path, small: bool) -> Row:
    """F4: records are cut, flipped, emptied, edited and exchanged."""
    keys = 40 if small else 500
    store, source, runs, wrong, refused = (
        Store(folder, "squares"),
        random.Random(0),
        [Run(i) for i in range(keys)],
        0,
        0,
    )
    work(store, runs, lambda run: {"square": run.seed**2})
    whole = {run: store.path(run).read_bytes() for run in runs}
    for run in runs:
        content = _damage(source, whole[run], whole[source.choice([other for other in runs if other != run])])
        store.path(run).write_bytes(content)
        try:
            wrong += store.read(run) != json.loads(whole[run])
        except ValueError:
            refused += 1
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        again = work(store, runs, lambda run: {"square": run.seed**2})
    row = Row()
    row.count("damaged", keys)
    row.count("wrong", wrong, most=0)
    row.count("refused", refused, least=1)
    row.count("warned", len(told), least=refused, most=refused)
    row.count("again", again, least=refused, most=refused)
    row.count("kept", len([*(folder / "damaged").iterdir()]), least=refused, most=refused)
    row.count("lost", sum(not _is_right(store, run) for run in runs), most=0)
    return row


def full(folder: Path, small: bool) -> Row:
    """F9: files cannot grow, as on a full disk, and later they can again."""
    runs = [Run(seed) for seed in range(3 if small else 30)]
    store = Store(folder, "squares")

    def compute(run: Run) -> dict[str, Any]:
        return {"square": run.seed**2, "hits": "01" * 10_000}

    def errors(limit: int) -> int:
        # The kernel writes what still fits, and refuses the rest; a full disk does the same.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        found = 0
        for run in runs:
            try:
                work(store, [run], compute)
            except OSError:
                found += 1
        return found

    row, found = Row(), 0
    for limit in (0, 10, 8192):
        found += os.waitstatus_to_exitcode(os.waitpid(_fork(partial(errors, limit)), 0)[1])
    row.count("by", "RLIMIT_FSIZE")
    row.count("errors", found, least=3 * len(runs), most=3 * len(runs))
    row.count("partial", sum(store.path(run).exists() for run in runs), most=0)
    row.count("leftovers", leftovers(store), most=0)
    row.count("again", work(store, runs, compute), least=len(runs))
    row.count("lost", len(store.missing(runs)), most=0)
    return row


def failing(folder: Path, small: bool) -> Row:
    """F7: some runs of a study fail."""
    row = Row()
    faults_study.failures(folder, row)
    return row


def second_writer(folder: Path, small: bool) -> Row:
    """F18: a second training in a folder is refused, until the first one is dead."""
    row = Row()
    faults_study.writers(folder, row, small)
    return row


def of_processes(fault: Callable[[Path, Row, bool], None], folder: Path, small: bool) -> Row:
    """F12, F13, F14: what happens to several processes of one program."""
    row = Row()
    fault(folder, row, small)
    return row


def killed_jobs(folder: Path, small: bool) -> Row:
    """A job of submitit is killed."""
    row = Row()
    faults_study.jobs(folder, row, small)
    return row


FAULTS: dict[str, Callable[[Path, bool], Row]] = {
    "F1": kills,
    "F4": damage,
    "F7": failing,
    "F9": full,
    "F18": second_writer,
    "submitit": killed_jobs,
}
"""(an empty folder, whether it is to be small) -> what was counted."""

OF_PROCESSES: dict[str, Callable[[Path, bool], Row]] = {
    "F12": partial(of_processes, faults_processes.kills),
    "F13": partial(of_processes, faults_processes.damaged),
    "F14": partial(of_processes, faults_processes.stops),
}
"""The same, of several processes."""


def main(words: Sequence[str] | None = None) -> int:
    """Prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", help=f"of {', '.join(FAULTS)}; all where there are none")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--processes", action="store_true", help=f"of {', '.join(OF_PROCESSES)}")
    chosen = parser.parse_args(words)
    table = OF_PROCESSES if chosen.processes else FAULTS
    if unknown := set(chosen.faults) - set(table):
        parser.error(f"unknown faults {', '.join(sorted(unknown))}; choose among {', '.join(table)}")
    broken = 0
    for name in chosen.faults or table:
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            row = table[name](Path(folder) / name, chosen.small)
            row.count("s", f"{time.perf_counter() - begin:.1f}")
        broken += bool(row.broken)
        sys.stdout.write(f"{name} {row}\n")
        sys.stdout.flush()
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
