"""Rounds in a folder: each is there when it is done, so that what was interrupted goes on after the last of them.

Beside the newest round lies ``trajectory.json``: what every round did, and what decides them all.  Functions cannot be
told apart by their bytes; so whoever goes on computes again what the first round pruned, and what the objective was
there, and both are compared.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune import checkpoint, files, masks
from jaxprune.pruning.trajectory import Attempt, Compensated
from jaxprune.types import Mask, Params

_NAME, _FORMAT = "trajectory.json", 1
# A sum in another order, on another machine.
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Kept:
    """A folder that this process writes rounds into.

    Attributes:
      writer: of its checkpoints.
      decisive: what decides the rounds, as text.
      done: the rounds that were done, as JSON.
      last: the newest of them; None where there is none.
    """

    writer: checkpoint.Writer
    decisive: dict[str, str]
    done: list[dict[str, Any]]
    last: Compensated | None

    def save(self, found: Compensated) -> None:
        """Saves a round: its arrays, and then what it did."""
        # In this order: a round that is there has its line.
        self.done.append(_described(found))
        files.write_json(self.writer.root / _NAME, {"format": _FORMAT, "decisive": self.decisive, "rounds": self.done})
        self.writer.save(found.number, {"mask": found.mask, "params": found.params}, keep=2)

    def demand(self, mask: Mask, before: float) -> None:
        """Checks that the first round prunes what it pruned, where the objective was what it was.

        Raises:
          ValueError: it does not: score, selection or objective are others.
        """
        first = self.done[0]
        known, at = first["mask"], first["attempts"][0]["before"]
        if digest(mask) != known or abs(at - before) > _TOLERANCE * max(abs(at), abs(before)):
            what = "prunes other weights" if digest(mask) != known else f"begins at {before:.6g}, not {at:.6g}"
            raise ValueError(
                f"folder: expected rounds of this call in {str(self.writer.root)!r}, but its first round {what}: "
                "score, select or objective were others. Choose another folder."
            )


@contextmanager
def kept(folder: str | os.PathLike[str] | None, decisive: Mapping[str, Any], params: Params) -> Iterator[Kept | None]:
    """Opens the folder of some rounds; None: nothing is kept.

    Args:
      folder: where they lie, or will.
      decisive: what decides them, by name: trees of arrays and plain values.
      params: of the structure of theirs.

    Raises:
      ValueError: the folder cannot be written, somebody else writes into it, or it holds other rounds; the message says
        what differs.
    """
    if folder is None:
        yield None
        return
    now = {name: digest(value) for name, value in decisive.items()}
    with checkpoint.Writer(folder) as writer:
        written = _read(writer.root)
        if written and (differing := sorted(name for name in now if written["decisive"].get(name) != now[name])):
            raise ValueError(
                f"folder: expected rounds of this call in {str(writer.root)!r}, but these differ: "
                f"{', '.join(differing)}. Choose another folder."
            )
        done, last = (written or {}).get("rounds", []), None
        found = writer.restore({"mask": masks.ones(params), "params": params})
        if found is not None:
            number, state = found
            done = done[: number + 1]
            last = _read_round(done, state["mask"], state["params"])
        yield Kept(writer, now, done if last else [], last)


def digest(value: Any) -> str:
    """Hashes a tree of arrays, or plain values, by their bytes."""
    made = hashlib.sha256(str(jax.tree.structure(value)).encode())
    for leaf in jax.tree.leaves(value):
        array = np.asarray(leaf) if hasattr(leaf, "shape") else np.asarray(repr(leaf))
        made.update(f"{array.shape}{array.dtype}".encode())
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


def _described(found: Compensated) -> dict[str, Any]:
    attempts = [dataclasses.asdict(attempt) for attempt in found.attempts]
    return {"number": found.number, "sparsity": found.sparsity, "attempts": attempts, "mask": digest(found.mask)}


def _read_round(done: list[dict[str, Any]], mask: Mask, params: Params) -> Compensated:
    """The last of the rounds that were done."""
    *earlier, attempts = (tuple(Attempt(**attempt) for attempt in one["attempts"]) for one in done)
    return Compensated(done[-1]["number"], done[-1]["sparsity"], mask, params, attempts, tuple(earlier))


def _read(root: Path) -> dict[str, Any] | None:
    path = root / _NAME
    if not path.exists():
        if checkpoint.steps(root):
            raise ValueError(f"folder: {str(root)!r} holds checkpoints that are no rounds. Choose another folder.")
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"folder: {str(path)!r} is damaged ({error}). Choose another folder.") from error
    if found.get("format") != _FORMAT:
        raise ValueError(f"folder: {str(path)!r} is of another version of jaxprune. Choose another folder.")
    return found
