"""Records: what a run is called, what it says of itself, and where it took place.

A run is a configuration (a dataclass).  Its key names it: equal configurations have equal keys, and a configuration, a
study, a method or data that differ in anything have another.  ``jaxprune.store`` keeps the records by their keys.
"""

import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np

from jaxprune import files

SCHEMA = 2
"""How keys and records are made; it enters every key, so that those of another making are never taken for these."""

_PACKAGES = ("jaxprune", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn")
_PACKAGES += ("matfree", "safetensors")
_LONGEST = 10_000  # bits of a whole number; Python reads no text of more than 4300 digits


def plain(config: Any) -> dict[str, Any]:
    """Writes a configuration as JSON has it.

    Args:
      config: a dataclass of None, text, numbers (of Python or NumPy), paths, lists, tuples, mappings with names for
        keys, and dataclasses of these.

    Returns:
      A field for each of the dataclass, and "@type", the name of its class.  What JSON lacks has such a mark too: a
      path is ``{"@path": ...}``, an infinite number ``{"@float": "inf"}``.

    Raises:
      TypeError: ``config`` is no dataclass, or a field has a value of another kind (the message names it).
      ValueError: a number is NaN, which equals nothing, or longer than JSON can hold.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Run:
    ...     seed: int
    ...     shifts: tuple[str, ...] = ()
    >>> plain(Run(np.int64(3)))
    {'@type': 'Run', 'seed': 3, 'shifts': []}
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(
            f"config: expected a dataclass, but got {config!r}. Write @dataclass(frozen=True) above its class."
        )
    return as_json("config", config)


def as_json(name: str, value: Any, *, infinite: bool = True) -> Any:
    """Writes any value that a configuration may have as JSON (see ``plain``).

    Args:
      name: what messages call it.
      value: to be written.
      infinite: whether infinite numbers are let through.
    """
    inner = functools.partial(as_json, infinite=infinite)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # what an enumeration of text is equal to
    if isinstance(value, int) and value.bit_length() <= _LONGEST:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, float) and math.isinf(value) and infinite:
        return {"@float": str(float(value))}
    if isinstance(value, PurePosixPath):
        return {"@path": str(value)}
    if isinstance(value, (list, tuple)):
        return [inner(f"{name}[{index}]", entry) for index, entry in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: inner(f"{name}.{one.name}", getattr(value, one.name)) for one in dataclasses.fields(value)}
        return {"@type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {_name(name, key): inner(f"{name}[{key!r}]", entry) for key, entry in value.items()}
    if isinstance(value, int):
        raise ValueError(f"{name}: expected a whole number of {_LONGEST} bits at most, but got a longer one.")
    if isinstance(value, float):
        wanted = "a number, and NaN equals none" if infinite else "a finite number"
        raise ValueError(f"{name}: expected {wanted}, but got {value}. Find its cause, or leave it out.")
    raise TypeError(
        f"{name}: expected None, text, a number, a path, a list, a tuple, a mapping or a dataclass, but got "
        f"{type(value).__name__}. Give what it is made from, in such a form."
    )


def _name(name: str, key: Any) -> str:
    if not isinstance(key, str) or key.startswith("@"):
        raise TypeError(f"{name}: expected text that does not begin with @ for keys, but got {key!r}.")
    return str.__str__(key)


def canonical(tree: Any) -> Any:
    """Gives equal JSON values one form: that of whole numbers, wherever a number is one.

    Args:
      tree: of ``plain``, also after it was written and read.

    >>> canonical([1, 1.0, True, -0.0, 1e16, 0.5]) == [1, 1, 1, 0, 10**16, 0.5]
    True
    """
    if isinstance(tree, float):
        return int(tree) if tree.is_integer() else tree
    if isinstance(tree, bool):
        return int(tree)
    if isinstance(tree, list):
        return [canonical(entry) for entry in tree]
    if isinstance(tree, dict):
        return {name: canonical(entry) for name, entry in tree.items()}
    return tree


def key(study: str, config: Any, *, version: int = 1, data: str = "") -> str:
    """Names a run: 16 hexadecimal digits, equal for two runs if and only if all of the following are equal.

    Args:
      study: what is measured.
      config: with what settings; every field counts, also one that has its default, and so does the name of the class.
        Equality is Python's (1, 1.0 and True are equal), but a list counts as the tuple.  Numbers of NumPy count as
        Python's of the same value: ``np.float32(0.1)`` is not 0.1.
      version: of the method: a study raises it when what it measures changes.
      data: fingerprint of the data.

    Raises:
      TypeError, ValueError: a field cannot be named (see ``plain``).

    >>> @dataclasses.dataclass(frozen=True)
    ... class Run:
    ...     rate: float
    >>> key("transfer", Run(1)) == key("transfer", Run(1.0)), key("transfer", Run(1)) == key("transfer", Run(2))
    (True, False)
    """
    return key_of({"schema": SCHEMA, "study": study, "version": version, "data": data, "config": plain(config)})


def key_of(record: Mapping[str, Any]) -> str:
    """Names the run that a record says it is of; a KeyError says what it lacks.

    Args:
      record: with "schema", "study", "version", "data", and "config" as of ``plain``.
    """
    names = ("schema", "study", "version", "data", "config")
    return digest(canonical({name: record[name] for name in names}))[:16]


def make(
    study: str, config: Any, metrics: Mapping[str, Any], provenance: Mapping[str, Any], *, version: int, data: str
) -> dict[str, Any]:
    """Makes the record of a run.

    Returns:
      What ``key`` is given, "metrics", "provenance"; "digest", which hashes configuration and metrics, so that two runs
      that agree have equal ones whenever and wherever they ran; and "sha256", which hashes all of the rest.

    Raises:
      TypeError, ValueError: a metric is nothing that JSON has, such as NaN (the message names it).
    """
    body = {"config": plain(config), "metrics": as_json("metrics", metrics, infinite=False)}
    named = {"schema": SCHEMA, "study": study, "version": version, "data": data}
    record = {**named, **body, "digest": digest(body), "provenance": as_json("provenance", provenance, infinite=False)}
    return {**record, "sha256": digest(record)}


class DamagedError(Exception):
    """A file is no whole record of the run that its name says.

    Attributes:
      identity: what tells the file from another of its name (see ``files.identity``).
    """

    def __init__(self, reason: str, identity: tuple[int, ...] | None) -> None:
        super().__init__(reason)
        self.identity = identity


def load(path: Path) -> dict[str, Any]:
    """Reads a record.

    Raises:
      DamagedError: it is not as it was written, or of another run than its name says.
      FileNotFoundError: there is none.
    """
    identity = files.identity(path)
    try:
        record = json.loads(path.read_text())
        if record["sha256"] != digest({name: value for name, value in record.items() if name != "sha256"}):
            raise ValueError("its sha256 does not fit")
        if record["digest"] != digest({"config": record["config"], "metrics": record["metrics"]}):
            raise ValueError("its digest does not fit")
        if key_of(record) != path.stem:
            raise ValueError("it is of another run")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, IsADirectoryError) as error:
        raise DamagedError(f"{type(error).__name__}, {error}", identity) from error
    return record


def is_whole(path: Path) -> bool:
    """Whether a file is a whole record of the run that its name says, or a record of the first schema."""
    try:
        load(path)
        return True
    except (DamagedError, FileNotFoundError):
        pass
    try:
        record = json.loads(path.read_text())
        body = {"config": record["config"], "metrics": record["metrics"]}
        return "schema" not in record and record["digest"] == digest(body)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def provenance(data_fingerprint: str, seconds: float) -> dict[str, Any]:
    """Describes where and when a run took place: versions, devices, commit, host, process, date, data, wall seconds."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    place = {"host": socket.gethostname(), "process": os.getpid(), "date": today}
    return {**_environment(), **place, "data": data_fingerprint, "seconds": round(seconds, 3)}


def fingerprint(*arrays: np.ndarray) -> str:
    """Hashes arrays (shape, type and bytes) to 16 hexadecimal digits.

    >>> fingerprint(np.zeros(2)) == fingerprint(np.zeros(2)), fingerprint(np.zeros(2)) == fingerprint(np.ones(2))
    (True, False)
    """
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.shape}{array.dtype}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]


def _environment() -> dict[str, Any]:
    return {
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "commit": _commit(),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def _commit(folder: Path = Path(__file__).parent) -> str:
    """The commit of the code in ``folder``, with a plus sign where files were changed; "unknown" outside a checkout.

    Not that of a repository around an installed package, in which an environment may lie, nor that which variables of
    Git name, as they do while a hook runs.
    """
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", *words], cwd=folder, env=plain, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        if Path(run("rev-parse", "--show-toplevel")).resolve() != folder.resolve().parent:
            return "unknown"
        run("ls-files", "--error-unmatch", "records.py")
        return run("rev-parse", "HEAD") + ("+" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def digest(value: Any) -> str:
    """Hashes a JSON value to the hexadecimal digits of its SHA-256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()
