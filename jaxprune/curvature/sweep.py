"""Everything of one point in one sweep: every quantity of all leaves from one set of signals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import check, losses, tree
from jaxprune.curvature import partition, routes
from jaxprune.curvature.blocks import blocks_fit, collect, of_block, request
from jaxprune.curvature.products import MATRICES, gradient_of
from jaxprune.curvature.requests import Request, is_idle, reason_against_signals, why_signals
from jaxprune.curvature.signals import name_of
from jaxprune.curvature.stream import NO_BATCH, Alike, total_weight
from jaxprune.network import Network
from jaxprune.types import Batch, Loss, Params, Scope

QUANTITIES = ("gradient", "diagonal", "unit", "layer", "gram")
_SHOWN = 4  # leaves that are printed


@dataclass(frozen=True)
class Sweep:
    """What ``sweep`` computed; None what was not asked for.

    Attributes:
      gradient: of the weighted mean loss, by every leaf.
      diagonal: H_jj.
      unit: H_B w_B of every unit, w the weights themselves.
      layer: H_B w_B of every leaf.
      gram: the dense blocks of every leaf by its name, [blocks, m, m], as ``jp.curvature.block`` lays them out.
    """

    gradient: Params | None = None
    diagonal: Params | None = None
    unit: Params | None = None
    layer: Params | None = None
    gram: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Says what it holds, and the shapes."""
        trees = {name: getattr(self, name) for name in QUANTITIES if name != "gram"}
        held = [name for name, value in trees.items() if value is not None]
        parts = [f"{', '.join(held)} of {_shapes(tree.by_name(trees[held[0]]))}"] if held else []
        parts += [f"gram of {_shapes(self.gram)}"] if self.gram is not None else []
        return f"Sweep({'; '.join(parts)})"


def _shapes(leaves: Mapping[str, Any]) -> str:
    """The names and shapes of the first few leaves, and how many there are more."""
    shown = [f"{name} {list(jnp.shape(leaf))}".strip() for name, leaf in [*leaves.items()][:_SHOWN]]
    return ", ".join(shown) + (f" and {len(leaves) - _SHOWN} more" if len(leaves) > _SHOWN else "")


def sweep(
    network: Network,
    loss: Loss,
    batches: Iterable[Batch],
    quantities: Sequence[str] = QUANTITIES,
    *,
    matrix: str = "hessian",
    blocks: str | int = "unit",
    scope: Scope = None,
    memory: int | None = None,
) -> Sweep:
    """Computes several exact quantities of all leaves over a stream of batches, from one set of signals.

    One forward pass, and one set of backward passes to the activations for each chunk of columns, serve every leaf and
    every quantity of second order (two where a linear head is narrow: of the leaves before it, and of the head).  The
    gradient is one of its own.  What signals do not serve goes by the routes that ``jp.curvature.plan`` names, one
    quantity after another.

    Args:
      network: evaluated in evaluation mode.
      loss: per-example loss.
      batches: images, what the loss reads, and optional weights; weighted as one large batch would be.
      quantities: some of "gradient", "diagonal", "unit" and "layer" (products H_B w_B with the weights themselves) and
        "gram" (dense blocks).
      matrix: "hessian", "ggn" or "empirical_fisher"; the gradient is that of the loss.
      blocks: of "gram": "unit", "layer" or an int, as in ``block_product``.
      scope: static tree of bools; leaves that are False come back zero, have no entry in ``gram``, and cost nothing.
        None: every leaf.
      memory: the bytes that temporaries may take, and the dense blocks.  None: half of what is free.

    Returns:
      A ``Sweep``.

    Raises:
      ValueError: an unknown quantity or none, an unknown matrix or blocks, no batch, a batch or a scope that does not
        fit, NaN anywhere.
      MemoryError: the dense blocks do not fit; the message says which are the largest that do.

    >>> from jaxprune import losses
    >>> net = Network(lambda p, s, x: x @ p, jnp.ones((2, 1)))
    >>> batch = {"image": jnp.array([[1.0, 3.0]]), "label": jnp.zeros((1, 1))}
    >>> found = sweep(net, losses.squared_error, [batch], ("diagonal", "unit", "gram"))
    >>> found
    Sweep(diagonal, unit of [2, 1]; gram of [1, 2, 2])
    >>> found.diagonal[:, 0], found.unit[:, 0], jnp.round(found.gram[""], 5)
    (Array([ 2., 18.], dtype=float32), Array([ 8., 24.], dtype=float32), Array([[[ 2.,  6.],
            [ 6., 18.]]], dtype=float32))
    """
    wanted = _checked(quantities)
    check.choice("matrix", matrix, MATRICES)
    partition.check_blocks(blocks)
    batches = check.batches(batches)
    check.concrete("network, batches", (network, batches), "Call it outside; inside, jp.curvature.diagonal works.")
    totals, weight, asked, alike = None, 0.0, None, Alike()
    for batch in batches:
        alike.check(batch)
        asked = request(network, loss, batch, matrix, blocks, scope)
        if "gram" in wanted and totals is None:
            blocks_fit(asked, asked.paths, memory, copies=2)  # a sum, and what is added to it
        part = _of_batch(asked, wanted, memory)
        totals = part if totals is None else _add(totals, part)
        del part  # else its blocks would lie there beside those of the next batch
        weight += total_weight(asked.batch)
    if totals is None or asked is None:
        raise ValueError(NO_BATCH)
    check.positive("batches: the sum of the weights", weight)
    return Sweep(**_scaled(totals, 1 / weight))


def _checked(quantities: Sequence[str]) -> tuple[str, ...]:
    if isinstance(quantities, str) or not quantities:
        raise ValueError(
            f"quantities: expected one or more of {', '.join(QUANTITIES)} in a tuple, but got {quantities!r}."
        )
    for quantity in quantities:
        check.choice("quantities", quantity, QUANTITIES, ordered=True)
    return tuple(quantity for quantity in QUANTITIES if quantity in quantities)


def _of_batch(asked: Request, wanted: tuple[str, ...], memory: int | None) -> dict[str, Any]:
    """Every quantity of a batch, summed with the weights of its examples."""
    served = [path for path in asked.paths if not _against(asked, path)]
    others = replace(asked, paths=tuple(path for path in asked.paths if path not in served))
    vectors = tree.by_name(asked.network.params)
    weights = losses.weights(asked.batch, asked.survey.outputs)
    found: dict[str, dict[str, Any]] = {quantity: {} for quantity in wanted}
    by_signals = {quantity: quantity if quantity != "gram" else ("dense", asked.blocks) for quantity in wanted}
    made = [by_signals[quantity] for quantity in wanted if quantity != "gradient"]
    if served and made:
        why = why_signals(asked)
        for task in routes.signal_tasks(asked, served, made, vectors, why, jnp.where(weights > 0, weights, 0)):
            # Nothing differentiates through a sweep.
            results = replace(task, wanted=replace(task.wanted, rooted=True)).fitted(memory).run()
            for quantity in wanted:
                given = results.get(name_of(by_signals[quantity]), [])
                found[quantity].update(zip(task.paths, given, strict=False))
    weight = total_weight(asked.batch)
    result: dict[str, Any] = {}
    for quantity in wanted:
        if quantity == "gradient":
            result[quantity] = _weighed(_in_scope(asked, gradient_of(asked.network, asked.loss, asked.batch)), weight)
        elif quantity == "gram":
            rest = {path: _weighed(of_block(replace(asked, paths=(path,)), memory), weight) for path in others.paths}
            result[quantity] = {path: (found[quantity] | rest)[path] for path in asked.paths}
        else:
            rest = _weighed(collect(others, _tasks(others, quantity), memory), weight)
            result[quantity] = _joined(asked, found[quantity], rest)
    return result


def _against(asked: Request, path: str) -> bool:
    return is_idle(asked, path) or bool(reason_against_signals(asked, path))


def _tasks(asked: Request, quantity: str) -> list[Any]:
    if quantity == "diagonal":
        return routes.diagonal_tasks(asked)
    return routes.product_tasks(replace(asked, blocks=quantity), asked.network.params)


def _joined(asked: Request, found: dict[str, Any], rest: Params) -> Params:
    # A network may compute in a wider type than its leaves have.
    return tree.map_named(
        lambda name, leaf: found[name].reshape(leaf.shape).astype(leaf.dtype) if name in found else leaf, rest
    )


def _in_scope(asked: Request, gradient: Params) -> Params:
    return tree.map_named(lambda name, leaf: leaf if name in asked.paths else jnp.zeros_like(leaf), gradient)


@partial(jax.jit, donate_argnums=0)
def _add(total: Any, term: Any) -> Any:
    return tree.add(total, term)


@jax.jit
def _weighed(values: Any, weight: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf * jnp.asarray(weight, leaf.dtype), values)


@partial(jax.jit, donate_argnums=0)
def _scaled(totals: Any, factor: Any) -> Any:
    return _weighed(totals, factor)
