"""What studies divide over the devices of several processes: batches, trainings, and files that all of them share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from jaxprune import exclusive, processes


def placement() -> jp.mesh.Placement | None:
    """Where batches and weights lie: on all devices; None where this is the only process, which places nothing."""
    return None if processes.count() == 1 else jp.mesh.Placement(jp.mesh.make())


def everywhere(tree: Any) -> Any:
    """Puts a copy on every device of all processes; does nothing where this is the only one."""
    where = placement()
    return tree if where is None else where.tree(tree)


def here(tree: Any) -> Any:
    """Brings a tree from all devices to the first one of this process; does nothing where this is the only process."""
    return tree if processes.count() == 1 else jax.tree.map(jnp.asarray, processes.read(tree))


def batches(data: dict[str, Any], largest: int, name: str = "images") -> Sequence[dict[str, Any]]:
    """Cuts data into batches of at most so many examples; those from disk come to the device ahead, with a bar.

    Several processes of one program divide each batch; then it may have some examples more, of weight 0.
    """
    size, streamed = min(largest, len(data["label"])), isinstance(data["image"], jp.data.Stream)
    if (where := placement()) is not None:
        size = -(-size // where.size) * where.size
        cut = jp.data.prefetch(jp.data.Batches(data, size, where.host), place=where.batch)
    else:
        cut = jp.data.Batches(data, size)
        cut = jp.data.prefetch(cut, place=jax.device_put) if streamed else cut
    return jp.data.with_progress(cut, name) if streamed and processes.is_first() else cut


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Has a file for as long as the block runs: this process, or for all of them the first one."""
    taken: list[exclusive.Hold] = []
    # Whoever has it may take hours.
    processes.first(lambda: taken.append(exclusive.wait(path)), what=path.name, limit=float("inf"))
    try:
        yield
    finally:
        for one in taken:
            one.release()
