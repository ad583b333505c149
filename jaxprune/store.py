"""The records of a study in a folder, which is also the queue of its runs.

A run is done where its record is there, and is done by whoever holds its claim.  Any number of processes, of any
machines that see the folder, may work on it: nothing but the folder says what is to be done.

::

    study.json            whose folder it is
    records/<key>.json    one for each run that is done, never overwritten
    failed/<key>.json     why a run failed; it is not tried again before it is forgotten
    claims/<key>          held by the process that does the run (see ``jaxprune.exclusive``)
    damaged/              records that were not as they were written
"""

import contextlib
import json
import os
import re
import socket
import time
import traceback
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxprune import check, exclusive, files, records

State = Literal["done", "failed", "running", "waiting"]


class Store:
    """The folder of a study.

    Args:
      folder: made where it is missing; of one study only.
      study: what is measured; like ``version`` and ``data`` it enters every key.
      version: of the method: a study raises it when what it measures changes.
      data: fingerprint of the data.
      lease: seconds after which a claim of another machine that is not touched is abandoned.

    Raises:
      ValueError: the folder cannot be written, cannot keep processes apart, or is another study's.

    >>> import dataclasses, tempfile
    >>> @dataclasses.dataclass(frozen=True)
    ... class Run:
    ...     seed: int
    >>> store = Store(tempfile.mkdtemp(), "squares")
    >>> for run in (Run(2), Run(3)):
    ...     if claim := store.claim(run):
    ...         with claim:
    ...             _ = store.write(run, {"square": run.seed**2}, records.provenance("", 0.0))
    >>> store.missing([Run(2), Run(4)]), store.read(Run(3))["metrics"]
    ([Run(seed=4)], {'square': 9})
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        study: str,
        *,
        version: int = 1,
        data: str = "",
        lease: float = exclusive.LEASE,
    ) -> None:
        check.positive("lease", lease)
        self.study, self.version, self.data = study, check.whole("version", version), data
        self.folder = check.writable("out", folder)
        exclusive.demand_supported("out", self.folder)
        self._lease = lease
        self._whole: dict[Path, tuple[int, ...]] = {}
        self._own()
        self._records, self._failed, self._claims, self._damaged = (
            check.writable("out", self.folder / name) for name in ("records", "failed", "claims", "damaged")
        )

    def key(self, config: Any) -> str:
        """Names a run (see ``records.key``)."""
        return records.key(self.study, config, version=self.version, data=self.data)

    def path(self, config: Any) -> Path:
        """Returns where the record of a run lies, or would lie."""
        return self._records / f"{self.key(config)}.json"

    def has(self, config: Any) -> bool:
        """Says whether a run is done: a whole record is there, of exactly this configuration.

        A record that is damaged, or another run's, is put aside, and the run counts as not done.

        Warns:
          UserWarning: a record was put aside.
        """
        return self._is_done(self.path(config))

    def read(self, config: Any) -> dict[str, Any]:
        """Reads the record of a run.

        Returns:
          What ``records.make`` made: "config", "metrics", "provenance" and more.

        Raises:
          KeyError: there is none.
          ValueError: it is damaged, or another run's.
        """
        path = self.path(config)
        try:
            return records.load(path)
        except FileNotFoundError as error:
            raise KeyError(f"record: none of {config!r} in {str(self._records)!r}. Do the run first.") from error
        except records.DamagedError as damage:
            raise ValueError(
                f"record: {str(path)!r} is damaged: {damage}. Run again: it is put aside, and made anew."
            ) from damage

    def missing(self, configs: Sequence[Any]) -> list[Any]:
        """Lists the runs that are not done, as ``has`` says it."""
        return [config for config in configs if not self.has(config)]

    def claim(self, config: Any) -> exclusive.Hold | None:
        """Takes a run for this process, to be released when it is written or has failed.

        Returns:
          The claim, a context manager; None where the run is done or has failed, or somebody alive does it.
        """
        name = self.key(config)
        if self._is_settled(name):
            return None
        place = self._claims / name
        was_left = place.exists()
        found = exclusive.hold(place, lease=self._lease)
        if found is None:
            return None
        try:
            if was_left:
                self._clean(name)
            # Again, as its holder may have finished it in between.
            if not self._is_settled(name):
                return found
        except BaseException:
            found.release()
            raise
        found.release()
        return None

    def write(self, config: Any, metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> bool:
        """Publishes the record of a run, at once and complete; a failure of it is forgotten.

        Returns:
          Whether it was published: False where another process has done so before, whose record stays.

        Raises:
          TypeError, ValueError: a metric is nothing that JSON has, such as NaN (the message names it).
          OSError: the disk is full; nothing is left under the name of the record.
        """
        path = self.path(config)
        record = records.make(self.study, config, metrics, provenance, version=self.version, data=self.data)
        while True:
            try:
                files.write_json(path, record, over=False)
                break
            except FileExistsError:
                if self._is_done(path):
                    return False
        (self._failed / path.name).unlink(missing_ok=True)
        return True

    def fail(self, config: Any, error: Exception, seconds: float | None = None) -> None:
        """Notes why a run failed, after how many seconds; it is not claimed again before it is forgotten."""
        failure = {
            "config": records.plain(config),
            "error": f"{type(error).__name__}: {error}",
            "traceback": "".join(traceback.format_exception(error)),
            **{"host": socket.gethostname(), "process": os.getpid()},
            **({} if seconds is None else {"seconds": round(seconds, 3)}),
        }
        files.write_json(self._failed / f"{self.key(config)}.json", failure)

    def failures(self, configs: Iterable[Any]) -> list[tuple[Any, dict[str, Any]]]:
        """Lists the runs that have failed, each with what ``fail`` noted."""
        found = []
        for config in configs:
            path = self._failed / f"{self.key(config)}.json"
            if path.exists() and not self.has(config):
                found.append((config, _failure(path)))
        return found

    def forget(self, configs: Iterable[Any]) -> int:
        """Forgets the failures of runs, so that they are tried again; says how many."""
        paths = [self._failed / f"{self.key(config)}.json" for config in configs]
        return sum(_removed(path) for path in paths)

    def state(self, config: Any) -> State:
        """Says how a run stands; whether it is running is what its claim seems to say."""
        if self.has(config):
            return "done"
        name = self.key(config)
        if (self._failed / f"{name}.json").exists():
            return "failed"
        return "running" if exclusive.is_held(self._claims / name) else "waiting"

    def claimed(self) -> set[str]:
        """Lists the keys of the runs that have a claim, of a living process or of a dead one; at once."""
        return {path.name for path in self._claims.iterdir()}

    def holder(self, config: Any) -> str:
        """Says who does a run, or did it when it was killed: "process 123 on host", or "nobody"."""
        return exclusive.holder(self._claims / self.key(config))

    def strangers(self, configs: Iterable[Any]) -> int:
        """Counts the whole records that are of none of these runs, and are neither used nor overwritten.

        They are of other settings, of other data or methods, or of an earlier schema.
        """
        own = {self.key(config) for config in configs}
        return sum(records.is_whole(path) for path in self._records.glob("*.json") if path.stem not in own)

    def sweep(self) -> int:
        """Removes the claims and the unfinished files of processes that are dead; says how many."""
        claims = {path.name for path in self._claims.iterdir() if not path.name.startswith(".")}
        unfinished = {match[1] for path in self._unfinished() if (match := _UNFINISHED.match(path.name))}
        removed = 0
        for name in sorted(claims | unfinished):
            if found := exclusive.hold(self._claims / name, lease=self._lease):
                with found:
                    removed += self._clean(name) + (name in claims)
        for path in [*self.folder.glob(".tmp-*"), *self._unfinished()]:
            # Of no run, so of nobody who could hold it: they live for moments.
            if not _UNFINISHED.match(path.name) and _age(path) >= self._lease:
                removed += _removed(path)
        return removed

    def _own(self) -> None:
        """Writes whose folder it is, once."""
        path = self.folder / "study.json"
        try:
            if not path.exists():
                files.write_json(path, {"study": self.study}, over=False)
        except FileExistsError:
            pass  # another process of the study, in this moment
        try:
            found = json.loads(path.read_text())["study"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"out: {str(path)!r}, which says whose folder it is, is damaged ({error}). Delete that file if the "
                f"folder is of the study {self.study!r}, or choose another folder."
            ) from error
        if found != self.study:
            raise ValueError(
                f"out: expected a new folder, or one of the study {self.study!r}, but {str(self.folder)!r} is of the "
                f"study {found!r}. Choose another folder."
            )

    def _is_settled(self, name: str) -> bool:
        return self._is_done(self._records / f"{name}.json") or (self._failed / f"{name}.json").exists()

    def _is_done(self, path: Path) -> bool:
        """Whether a whole record lies under its own name; what lies there else is put aside."""
        identity = files.identity(path)
        if identity is not None and self._whole.get(path) == identity:
            return True  # read before, and not touched since
        try:
            records.load(path)
            # What was written in this moment could be written again without another time.
            if identity is not None and time.time() - identity[2] / 1e9 > 1.0:
                self._whole[path] = identity
            return True
        except FileNotFoundError:
            return False
        except records.DamagedError as damage:
            aside = self._damaged / f"{path.stem}-{uuid.uuid4().hex[:8]}.json"
            # Another process may have put it aside, and written it anew.
            if damage.identity == files.identity(path):
                with contextlib.suppress(FileNotFoundError):
                    path.rename(aside)
                    warnings.warn(
                        f"The record {str(path)!r} is damaged: {damage}. It was moved to {str(aside)!r}, and "
                        "its run counts as not done.",
                        stacklevel=3,
                    )
            return self._is_done(path)

    def _unfinished(self) -> list[Path]:
        return [path for part in (self._records, self._failed, self._claims) for path in part.glob(".tmp-*")]

    def _clean(self, name: str) -> int:
        """Removes what dead holders of a claim, which is held here, have left of it."""
        parts = (self._records, self._failed)
        return sum(_removed(path) for part in parts for path in part.glob(f".tmp-{name}-*"))


_UNFINISHED = re.compile(r"\.tmp-([0-9a-f]{16})-")


def _failure(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {"error": f"its description {str(path)!r} cannot be read"}


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _age(path: Path) -> float:
    try:
        return exclusive.age(path)
    except FileNotFoundError:
        return 0.0
