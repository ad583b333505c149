"""Every block of some leaves, made over all batches and solved one after the other, for as many leaves as fit."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, mesh, tree
from jaxprune.curvature import sweep
from jaxprune.curvature.blocks import block_bytes, request
from jaxprune.curvature.requests import Request
from jaxprune.curvature.stream import NO_BATCH
from jaxprune.memory import available, forget_programs
from jaxprune.mesh import Placement
from jaxprune.network import Network
from jaxprune.scores.units import divided
from jaxprune.types import Batch, Loss

# Numbers in the blocks that an accelerator solves side by side.  A CPU takes one block at a time, which stays in its
# cache: greedy on 64 blocks of 576 x 576 took 0.8 s, and in groups of four 2.2 s.
_SIDE_BY_SIDE = 2**25


def requested(
    network: Network, loss: Loss, batches: Iterable[Batch], blocks: str | int, matrix: str
) -> tuple[Request, list[Batch]]:
    """What is asked of the first batch, and all batches: they are read once for every group of leaves."""
    listed = list(check.batches(batches))
    if not listed:
        raise ValueError(NO_BATCH)
    return request(network, loss, listed[0], matrix, blocks, None), listed


def solved(
    solve: Callable[..., Any],
    asked: Request,
    batches: list[Batch],
    paths: Sequence[str],
    leaves: dict[str, Any],
    kept: Sequence[dict[str, Any]],
    damping: float,
) -> Iterator[tuple[str, list[Any]]]:
    """Solves every block of these leaves, once for each set of kept weights that has an entry for the leaf; else None.

    The results stand where their weights do, zero for what takes no part.  A sweep for as many leaves at a time as fit
    into memory together.
    """
    placement = mesh.found(asked.batch)
    for group, gram in _swept(asked, batches, paths):
        results: list[dict[str, Any]] = []
        for one in kept:
            some = tuple(path for path in group if path in one)
            members, given = [asked.members(path) for path in some], [leaves[path] for path in some]
            reads = _read(given, [one[path] for path in some], {path: gram[path] for path in some}, members, some)
            values = []
            for path, (weights, void, mean_diagonal) in zip(some, reads, strict=True):
                blocks = gram.pop(path) if one is kept[-1] else gram[path]
                shift = damping * mean_diagonal
                each, definite = _each_block(blocks, weights, void, shift, solve=solve, placement=placement)
                failed = np.flatnonzero(~np.asarray(definite))
                if failed.size:
                    raise ValueError(_indefinite(path, blocks, np.asarray(void), failed, damping, float(mean_diagonal)))
                values.append(each)
            orders = [order(places, leaf.size) for places, leaf in zip(members, given, strict=True)]
            results.append(dict(zip(some, placed(values, orders, given), strict=True)))
        gram.clear()  # of leaves that the last mask keeps whole; else they would lie beside the next group
        yield from ((path, [one.get(path) for one in results]) for path in group)


def _swept(asked: Request, batches: list[Batch], paths: Sequence[str]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """The dense blocks of all leaves over all batches, for as many leaves at a time as fit."""
    options = {"matrix": asked.matrix, "blocks": asked.blocks}
    groups, forgotten = _groups(asked, paths)[::-1], False
    while groups:
        group = groups.pop()
        scope = tree.map_named(lambda path, _, group=group: path in group, asked.network.params)
        try:
            gram = sweep(asked.network, asked.loss, batches, ("gram",), scope=scope, **options).gram or {}
        except MemoryError:  # said before anything is computed; what the blocks are made of takes memory too
            if len(group) > 1:
                groups += [group[len(group) // 2 :], group[: len(group) // 2]]
                continue
            if forgotten:
                raise
            forget_programs()
            groups, forgotten = [*groups, group], True
            continue
        yield group, gram


def _groups(asked: Request, paths: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    # A sum and what is added to it, and as much again for what is made of them.
    taken, there = 0, available(None) // 3
    for path in paths:
        needed = block_bytes(asked, path)
        if not groups or taken + needed > there:
            groups, taken = [*groups, []], 0
        groups[-1].append(path)
        taken += needed
    return groups


# One program for all leaves, instead of one for every shape.
@partial(jax.jit, static_argnames="paths")
def _read(
    leaves: list[Any], kept: list[Any], gram: dict[str, Any], members: list[Any], paths: tuple[str, ...]
) -> list[tuple[Any, Any, Any]]:
    """The weights of every block [blocks, m], which of them take no part, and the mean diagonal, of every leaf."""
    found = []
    for leaf, stays, path, places in zip(leaves, kept, paths, members, strict=True):
        missing, dense = places < 0, gram[path]
        # The row of a weight whose input is always zero is exactly zero.  Damping would put a price on it.
        void = missing | jnp.all(dense == 0, axis=2) | ~stays.ravel()[places]
        mean_diagonal = jnp.sum(jnp.diagonal(dense, axis1=1, axis2=2)) / leaf.size
        found.append((jnp.where(missing, 0, leaf.ravel()[places]).astype(dense.dtype), void, mean_diagonal))
    return found


def order(members: np.ndarray, size: int) -> np.ndarray:
    """Where among the numbers of every block [blocks, m] that of each weight of a leaf stands; each is in one block."""
    order = np.empty(size + 1, np.int32)
    order[members.ravel()] = np.arange(members.size)  # padding, -1, falls off the end
    return order[:-1]


@jax.jit
def placed(values: list[Any], orders: list[Any], leaves: list[Any]) -> list[Any]:
    """Numbers of every block [blocks, m] where their weights stand in their leaf."""
    return [
        each.ravel()[order].reshape(leaf.shape).astype(leaf.dtype)
        for each, order, leaf in zip(values, orders, leaves, strict=True)
    ]


@partial(jax.jit, static_argnames=("solve", "placement"))
@jax.default_matmul_precision("highest")
def _each_block(
    dense: Any, weights: Any, void: Any, shift: Any, *, solve: Callable[..., Any], placement: Placement | None
) -> tuple[Any, Any]:
    together = None if jax.default_backend() == "cpu" else max(1, _SIDE_BY_SIDE // dense.shape[1] ** 2)

    def some(given: Any, units: Any) -> Any:
        *blocks, shift = given
        return jax.lax.map(lambda unit: solve(*(each[unit] for each in blocks), shift), units, batch_size=together)

    return divided(some, placement, (dense, weights, void, shift), len(dense))


def _indefinite(
    path: str, dense: Any, void: np.ndarray, failed: np.ndarray, damping: float, mean_diagonal: float
) -> str:
    check.finite(f"a Hessian block of {path}", dense, "Inspect the loss, the images and the weights.")
    lowest, highest = np.inf, -np.inf
    for index in failed:
        taking_part = ~void[index]
        matrix = np.asarray(dense[index], np.float64)[np.ix_(taking_part, taking_part)]
        eigenvalues = np.linalg.eigvalsh(matrix)
        lowest, highest = min(lowest, eigenvalues[0]), max(highest, eigenvalues[-1])
    remedy = 'no relative damping can help, since its mean diagonal is not positive: use matrix="ggn".'
    if mean_diagonal > 0:
        # Twice what lifts the lowest eigenvalue above zero, and above what rounding does to a factorisation.
        rounding = dense.shape[1] * float(jnp.finfo(dense.dtype).eps) * highest
        suffices = 2 * max(-lowest, rounding) / mean_diagonal
        remedy = f'damping={suffices:.2g} suffices; for a convex loss matrix="ggn" needs no more than rounding.'
    return (
        f"damping: a Hessian block of {path} is not positive definite at damping={damping} (lowest eigenvalue "
        f"{lowest:.3g}, mean diagonal {mean_diagonal:.3g}), so what an optimal brain surgeon says means nothing there; "
        f"{remedy}"
    )
