"""Records: one run is one file, named by a hash of its configuration.

A record is ``{"config", "metrics", "digest", "provenance"}``.  Its name hashes the study and those fields of the
configuration that differ from their defaults, so a new field with a default leaves old records valid.  The digest
hashes configuration and metrics, not the provenance: two runs that agree have equal digests whenever and wherever they
ran.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune import check, files

_PACKAGES = ("jaxprune", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn")
_PACKAGES += ("matfree", "safetensors")


def changed(config: Any) -> dict[str, Any]:
    """Lists the fields of a configuration (a dataclass) that differ from their defaults; those without one count too.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Run:
    ...     seed: int
    ...     rounds: int = 1
    >>> changed(Run(seed=0))
    {'seed': 0}
    """
    result = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if value != default:
            result[field.name] = value
    return result


def key(study: str, config: Any) -> str:
    """Names a run: the first 16 hexadecimal digits of the SHA-256 of the study and the changed fields."""
    return digest({"study": study, "config": changed(config)})[:16]


class Store:
    """A folder of records.

    Args:
      folder: made where it is missing.
      study: enters every key.

    Raises:
      ValueError: the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], study: str) -> None:
        self.folder = check.writable("folder", folder)
        self.study = study

    def path(self, config: Any) -> Path:
        """Returns where the record of a configuration lies, or would lie."""
        return self.folder / f"{key(self.study, config)}.json"

    def has(self, config: Any) -> bool:
        """Says whether the run is done."""
        return self.path(config).exists()

    def missing(self, configs: Sequence[Any]) -> list[Any]:
        """Lists the runs that are not done, and reads the others: a damaged one is found now, not after hours of work.

        Raises:
          ValueError: a record is damaged.
        """
        for config in configs:
            if self.has(config):
                self.read(config)
        return [config for config in configs if not self.has(config)]

    def write(self, config: Any, metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Writes the record of a run, at once and complete.

        Raises:
          ValueError: a metric is NaN or infinite (the message names it).
        """
        files.demand_finite("metrics", dict(metrics))
        body = {"config": dataclasses.asdict(config), "metrics": dict(metrics)}
        record = {**body, "digest": digest(body), "provenance": dict(provenance)}
        files.write_json(self.path(config), record)

    def read(self, config: Any) -> dict[str, Any]:
        """Reads the record of a run.

        Raises:
          ValueError: its file is damaged: it is no JSON, or configuration and metrics do not fit the digest.
        """
        path = self.path(config)
        try:
            record = json.loads(path.read_text())
            body = {"config": record["config"], "metrics": record["metrics"]}
            if record["digest"] != digest(body):
                raise ValueError("its digest does not fit")
        except (ValueError, KeyError, TypeError) as error:
            remedy = "Delete it; running again makes it anew."
            raise ValueError(f"record: {str(path)!r} is damaged ({error}). {remedy}") from error
        return record


def provenance(data_fingerprint: str, seconds: float) -> dict[str, Any]:
    """Describes where a run took place: versions, devices, commit, data, wall time in seconds."""
    return {**_environment(), "data": data_fingerprint, "seconds": round(seconds, 3)}


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
