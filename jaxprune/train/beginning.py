"""Where a training starts from, once all is checked that can be known before its first step."""

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import check, losses, optim, tree
from jaxprune.data.batches import is_streamed
from jaxprune.network import Network
from jaxprune.train.stepping import Augment
from jaxprune.types import Loss


def prepared(
    network: Network,
    loss: Loss,
    tx: optax.GradientTransformation,
    data: Mapping[str, Any],
    batch_size: int,
    optimizer: Any,
    augment: Augment | None,
) -> tuple[tuple[Network, Any], Any]:
    """Makes ((network, optimizer), jaxpr of one update): private copies, which the first step may give up.

    Errors are those of ``fit``.
    """
    check.batch(data, "data", losses.entries(loss))
    if not is_streamed(data):
        check.finite_batch(data, "data")
    if augment is not None and "teacher" in data:
        raise ValueError(
            "augment: expected none where the data has a 'teacher', which is of the images as they were, not of what "
            "becomes of them. Leave the augmentation out, or make the teacher part of it."
        )
    network = network.replace(params=optim.start(tx, network.params))
    check.network(network)
    _warn_of_frozen_statistics(network)
    # As small as can be; but an augmentation may need the others of a batch.
    batch = abstract_batch(data, 1) if augment is None else _augmented(augment, abstract_batch(data, batch_size))
    _check_outputs(network, loss, data, batch, augment is None)
    begun = tx.init(network.params)
    if optimizer is not None:
        _check_optimizer(optimizer, begun)
        begun = optimizer
    program = optim.demand_served(tx, begun, network.params)
    # Copies: the step donates its buffers, and what is the caller's must stay alive.
    return _committed(tree.copied((network, begun))), program


def _warn_of_frozen_statistics(network: Network) -> None:
    """Says that BatchNorm will not learn, where that is more likely forgotten than meant.

    A head that is frozen puts the network's state a level down, and every other library's networks have a training
    mode: what is left is a function of Flax's own variables that was given none.
    """
    state = network.state
    if network.train_apply is None and isinstance(state, Mapping) and jax.tree.leaves(state.get("batch_stats")):
        warnings.warn(
            "network: its state has BatchNorm statistics ('batch_stats'), but it has no training mode, so they stay as "
            "they are: it is trained as it is evaluated, without dropout. Pass the keyword arguments of the module "
            'that mean training, Network.from_linen(module, variables, train={"train": True}), or train={} where that '
            "is meant; a function of your own takes train_apply=.",
            stacklevel=4,
        )


def _committed(tree: Any) -> Any:
    """Ties all arrays to their device where some are tied to it.

    JAX compiles a step anew for every mixture of those that are and those that are not, such as weights from a
    checkpoint beside an optimizer that was just begun.
    """
    leaves = jax.tree.leaves(tree)
    devices = {device for leaf in leaves for device in leaf.devices()}
    mixed = len(devices) == 1 and any(leaf.committed for leaf in leaves)
    return jax.device_put(tree, devices.pop()) if mixed else tree


def abstract_batch(data: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The shapes of a batch of ``jp.data.training_batch``."""
    rows = {
        name: jax.ShapeDtypeStruct((size, *np.shape(entry)[1:]), jax.dtypes.canonicalize_dtype(entry.dtype))
        for name, entry in data.items()
    }
    return {"weight": jax.ShapeDtypeStruct((size,), np.float32), **rows}


def abstract_key() -> Any:
    """The shape of a key."""
    return jax.eval_shape(jax.random.key, 0)


def _check_outputs(network: Network, loss: Loss, data: Mapping[str, Any], batch: Any, raw: bool) -> None:
    """Checks one row of outputs for each example, and that the labels are what the losses of the library read.

    Args:
      network: of which the outputs are.
      loss: what other losses than those of the library read of the labels only they know.
      data: the labels themselves.
      batch: shapes, after augmentation.
      raw: whether the labels of batches are those of the data.
    """
    outputs = jax.eval_shape(network.apply, network.params, network.state, batch["image"])
    check.outputs(outputs, batch["image"].shape[0])
    losses.demand_slope(loss, data, "training")
    labelled = loss in (losses.cross_entropy, losses.squared_error)
    if labelled or isinstance(loss, losses.Distillation):  # what others read only they know
        jax.eval_shape(partial(losses.values, loss), outputs, batch)
    if labelled and raw and np.ndim(data["label"]) == 1:
        check.label_range("data: labels", data["label"], outputs.shape[-1])


def _augmented(augment: Augment, batch: dict[str, Any]) -> Any:
    """The shapes of a batch after augmentation."""
    found = jax.eval_shape(augment, batch, abstract_key())
    if not isinstance(found, Mapping):
        raise TypeError(
            f"augment: expected a function (batch, key) -> batch, but it returns a {type(found).__name__}. Return "
            "{**batch, 'image': ...}."
        )
    if missing := sorted(set(batch) - set(found)):
        raise ValueError(
            f"augment: expected a batch with all its entries, but it returns none called {', '.join(missing)}. Return "
            "{**batch, 'image': ...}."
        )
    (size,) = batch["weight"].shape
    for name, entry in found.items():
        if not np.shape(entry) or np.shape(entry)[0] != size:
            raise ValueError(
                f"augment: expected as many examples as there were, {size}, but {name!r} has the shape "
                f"{np.shape(entry)}. Take one version of each."
            )
    return found


def _check_optimizer(optimizer: Any, begun: Any) -> None:
    """Checks that a state is one of this transformation, under its mask."""
    check.same_structure("optimizer", optimizer, "tx.init(network.params)", begun)
    for name, leaf, wanted in zip(tree.names(begun), *map(jax.tree.leaves, (optimizer, begun)), strict=True):
        if jnp.result_type(leaf) != jnp.result_type(wanted):
            raise ValueError(
                f"optimizer: expected {jnp.result_type(wanted)} at {name}, as tx.init(network.params) has, but got "
                f"{jnp.result_type(leaf)}. Pass the state that this tx made, or None."
            )
    pairs = zip(*map(jax.tree.leaves, (optim.without_masks(optimizer)[1], optim.without_masks(begun)[1])), strict=True)
    if not all(np.array_equal(left, right) for left, right in pairs):
        raise ValueError(
            "optimizer: expected a state with the mask of tx, but its mask is another one, and that would prune. Pass "
            "optimizer._replace(mask=mask)."
        )
