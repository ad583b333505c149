"""Pruning one layer at a time, so that each puts out what it did: Wanda, SparseGPT and least squares.

What new weights V of a layer cost is its error, ``sum_o (V - W)_o^T H (V - W)_o`` with the second moments H of its
inputs (``moments``), summed over positions and averaged over images.  Layers are taken in the order in which the
network runs through them; where they are *sequential*, each sees the inputs that the network as pruned so far gives it.
Nothing looks at labels, at other layers or at the outputs.  All that follows from H is float64, on the host.

How the sparsity is shared out (``ALLOCATIONS``): "uniform", as published, the same share everywhere; "global", one
threshold for the costs of all layers as they are; "relative", one threshold for costs divided by what their layer puts
out, ``sum_o W_o^T H W_o``: what follows a normalisation does not feel the size of its inputs.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.methods import one_layer
from experiments.methods.moments import Kernels, kernels
from jaxprune import check, tree
from jaxprune.masks import allocations
from jaxprune.types import Batch, Mask, Params, Prunable

ALLOCATIONS = ("uniform", "global", "relative")

# (name of a kernel, its weights [g, d, o], the params as pruned so far) -> what is kept [g, d, o], new weights.
_Layer = Callable[[str, np.ndarray, Params], tuple[np.ndarray, np.ndarray]]


def wanda(
    network: jp.Network,
    batches: Iterable[Batch],
    prunable: Prunable,
    sparsity: float,
    *,
    allocation: str = "uniform",
    sequential: bool = True,
) -> jp.pruning.Round:
    """Prunes weights of small ``|w_j| ||x_j||``, x_j all that input j was on the images; others stay as they are.

    "uniform" compares the weights of one output unit with each other and prunes the same share of each, which is the
    paper's choice.

    Args:
      network: the dense network.
      batches: images and optional weights; labels are not read.
      prunable: static tree of bools, kernels alone.
      sparsity: the share of the prunable weights that becomes zero.
      allocation: "uniform", "global" or "relative"; the square of the score is the cost of deleting that weight alone.
      sequential: for "uniform".  One threshold for all layers needs all scores at once: those of the dense network.

    Returns:
      The mask, exactly ``round(sparsity * n)`` pruned, ties by position; and the params.

    Raises:
      ValueError: an option out of range, or what ``moments.kernels`` refuses.

    Source: Sun, Liu, Bair and Kolter (2023), arXiv 2306.11695.

    >>> net = jp.Network(lambda p, s, x: x @ p, jnp.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> wanda(net, [{"image": jnp.array([[1.0, 5.0]])}], True, 0.5).params.tolist()
    [[0.0, 0.0], [1.0, 2.0]]
    """
    found = _ready(network, batches, prunable, sparsity, allocation)
    if allocation != "uniform":
        mask = _global_mask(found, prunable, sparsity, allocation, one_layer.costs_alone)
        return _layer_by_layer(network, found, lambda path, weights, _: (_of_leaf(found, mask, path), weights))
    counts = _counts_of_units(found, sparsity)

    def layer(path: str, weights: np.ndarray, params: Params) -> tuple[np.ndarray, np.ndarray]:
        seen = params if sequential else found.network.params
        costs = one_layer.costs_alone(weights, found.moments(seen, [path])[path])
        units = np.moveaxis(costs, 1, 2)  # [g, o, d]
        rows = [
            one_layer.keep_largest(row, count)
            for row, count in zip(units.reshape(-1, units.shape[2]), counts[path], strict=True)
        ]
        return np.moveaxis(np.stack(rows).reshape(units.shape), 2, 1), weights

    return _layer_by_layer(network, found, layer)


def sparsegpt(
    network: jp.Network,
    batches: Iterable[Batch],
    prunable: Prunable,
    sparsity: float,
    *,
    damping: float = 1e-2,
    allocation: str = "uniform",
    block: int = 128,
    sequential: bool = True,
) -> jp.pruning.Round:
    """Prunes input by input, each time making up for it with the inputs to come: optimal brain surgeon in fixed order.

    See ``one_layer.prune_in_order`` for what is done in a layer.  "global" and "relative" share out the sparsity by one
    threshold for the costs that the algorithm itself ranks by, of the dense network and before any update; inside a
    layer every block of inputs is then pruned by the same share, as published.

    Args:
      network: the dense network.
      batches: images and optional weights; labels are not read.
      prunable: static tree of bools, kernels alone.
      sparsity: the share of the prunable weights that becomes zero.
      damping: times the mean diagonal of H of a layer, added to the diagonal; the paper's is 0.01.
      allocation: "uniform", "global" or "relative".
      block: of so many inputs the mask is chosen at a time; the paper's is 128.
      sequential: layers see the inputs that the network as pruned so far gives them, as in the paper.

    Returns:
      The mask, exactly ``round(sparsity * n)`` pruned; and the params.  A weight whose input is always zero goes
      first, and where it stays, it stays as it is.

    Raises:
      ValueError: an option out of range, or what ``moments.kernels`` refuses.

    Source: Frantar and Alistarh (2023), arXiv 2301.00774.

    >>> net = jp.Network(lambda p, s, x: x @ p, jnp.array([[1.0], [2.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]])}
    >>> jnp.round(sparsegpt(net, [batch], True, 0.5, damping=1e-4).params[:, 0], 2).tolist()
    [0.0, 3.0]
    """
    check.positive("damping", damping)
    check.whole("block", block)
    found = _ready(network, batches, prunable, sparsity, allocation)
    if allocation == "uniform":
        paths = _in_order_of_leaves(found)
        sizes = [(found.layouts[path].index.size,) for path in paths]
        counts = dict(
            zip(paths, allocations.uniform(sizes, round(sparsity * sum(size for (size,) in sizes))), strict=True)
        )
    else:
        costs = lambda weights, moments: one_layer.costs_in_order(weights, one_layer.in_order(moments, damping))  # noqa: E731
        mask = _global_mask(found, prunable, sparsity, allocation, costs)
        counts = {path: int((~_of_leaf(found, mask, path)).sum()) for path in found.layouts}

    def layer(path: str, weights: np.ndarray, params: Params) -> tuple[np.ndarray, np.ndarray]:
        moments = found.moments(params if sequential else found.network.params, [path])[path]
        return one_layer.prune_in_order(weights, moments, counts[path], damping=damping, block=block)

    return _layer_by_layer(network, found, layer)


def least_squares(
    network: jp.Network,
    batches: Iterable[Batch],
    mask: Mask,
    *,
    damping: float = 1e-2,
    sequential: bool = True,
    refit: Prunable | None = None,
) -> jp.pruning.Round:
    """Fits the kept weights of every pruned layer, so that it puts out what the dense network puts out there.

    Of every unit the v with zeros where the mask has them that minimises ``mean_n sum_t (x[n, t] v - y[n, t])^2 +
    d ||v - w||^2``: y what that unit of the dense network puts out, x the inputs in the network as pruned and fitted so
    far, w the dense weights.

    Args:
      network: the dense network.
      batches: images and optional weights; labels are not read.
      mask: what is kept; leaves with something pruned have to be kernels.
      damping: d is this times the mean diagonal of H of the layer.
      sequential: False: x are the inputs in the dense network.
      refit: static tree of bools: kernels that are fitted even if they keep everything, such as a head that is not
        pruned but whose inputs have changed.  None: leaves that keep everything are not touched.

    Returns:
      The mask, and the params.

    Raises:
      ValueError: an option out of range, a mask that does not fit, or what ``moments.kernels`` refuses.

    Source: the layerwise problem of Frantar, Singh and Alistarh (2022), arXiv 2208.11580, solved for a whole mask.

    >>> net = jp.Network(lambda p, s, x: x @ p, jnp.array([[1.0], [2.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]])}
    >>> kept = jnp.array([[True], [False]])
    >>> jnp.round(least_squares(net, [batch], kept, damping=1e-4).params[:, 0], 2).tolist()
    [3.0, 0.0]
    """
    check.positive("damping", damping)
    check.network(network)
    check.mask("mask", mask, network.params)
    fitted = jax.tree.map(lambda leaf: not np.asarray(leaf).all(), mask)
    if refit is not None:
        check.static_bools("refit", refit, network.params)
        fitted = jax.tree.map(lambda pruned, also: pruned or bool(also), fitted, refit)
    if not any(jax.tree.leaves(fitted)):
        return jp.pruning.Round(mask, network.params)
    found = kernels(network, batches, fitted, "mask")

    def layer(path: str, weights: np.ndarray, params: Params) -> tuple[np.ndarray, np.ndarray]:
        kept = _of_leaf(found, mask, path)
        if sequential:
            moments, cross = found.cross_moments(params, path)
        else:
            moments = cross = found.moments(found.network.params, [path])[path]
        return kept, one_layer.fit(weights, kept, moments, cross, damping=damping)

    return _layer_by_layer(network, found, layer)


def _ready(
    network: jp.Network, batches: Iterable[Batch], prunable: Prunable, sparsity: float, allocation: str
) -> Kernels:
    check.choice("allocation", allocation, ALLOCATIONS, ordered=True)
    check.sparsity(sparsity)
    return kernels(network, batches, prunable)


def _layer_by_layer(network: jp.Network, found: Kernels, layer: _Layer) -> jp.pruning.Round:
    params, kept = found.network.params, {}
    for path in found.layouts:
        stays, values = layer(path, found.weights(path, params), params)
        kept[path] = jnp.asarray(found.leaf(path, stays))
        leaf = tree.leaf(params, path)
        params = tree.replace(params, path, jnp.asarray(found.leaf(path, np.where(stays, values, 0)), leaf.dtype))
    mask = tree.map_named(lambda path, leaf: kept.get(path, jnp.ones(leaf.shape, bool)), params)
    # What is not pruned comes back as the very arrays that were given.
    given = network.params
    after = tree.map_named(lambda path, old, new: new.astype(old.dtype) if path in kept else old, given, params)
    return jp.pruning.Round(mask, after)


def _global_mask(
    found: Kernels,
    prunable: Prunable,
    sparsity: float,
    allocation: str,
    cost: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Mask:
    params, scores = found.network.params, {}
    for path, moments in found.moments(params, tuple(found.layouts)).items():
        weights = found.weights(path, params)
        costs = cost(weights, moments)
        if allocation == "relative":
            output = np.sum(weights * (moments @ weights))
            costs = costs / (output if output > 0 else 1.0)
        scores[path] = found.leaf(path, costs)
    values = tree.map_named(lambda path, leaf: jnp.asarray(scores.get(path, np.zeros(leaf.shape))), params)
    return jp.masks.unstructured(sparsity)(values, prunable)


def _of_leaf(found: Kernels, mask: Mask, path: str) -> np.ndarray:
    """What is kept of a kernel, [g, d, o]."""
    return np.asarray(tree.leaf(mask, path)).ravel()[found.layouts[path].index]


def _in_order_of_leaves(found: Kernels) -> list[str]:
    """The names of the kernels in the order of the parameters, in which masks settle what rounding leaves open."""
    return [path for path in tree.names(found.network.params) if path in found.layouts]


def _counts_of_units(found: Kernels, sparsity: float) -> dict[str, list[int]]:
    """How many weights of every unit are pruned, so that the total is exact."""
    paths = _in_order_of_leaves(found)
    shapes = {path: found.layouts[path].index.shape for path in paths}
    sizes = [(inputs,) for path in paths for groups, inputs, outputs in [shapes[path]] for _ in range(groups * outputs)]
    counts = iter(allocations.uniform(sizes, round(sparsity * sum(size for (size,) in sizes))))
    return {path: [next(counts) for _ in range(shapes[path][0] * shapes[path][2])] for path in paths}
