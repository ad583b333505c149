"""Networks that runs share: trained once, whoever comes first, and loaded by all others."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxprune as jp
from experiments.shared import hosts
from jaxprune import check, processes, records
from jaxprune.types import Loss


@partial(jax.jit, static_argnums=0)
def initialised(module: Any, key: Any, images: Any) -> Any:
    """Draws the variables of a linen module; modules that are equal share one program."""
    return module.init(key, images)


def trained(
    out: Path,
    network: jp.Network,
    loss: Loss,
    tx: optax.GradientTransformation,
    data: dict[str, Any],
    identity: dict[str, Any],
    mask: Any = None,
    **fit: Any,
) -> jp.Network:
    """Trains a network, or loads it, in a folder that is named by all that decides it.

    Another process that wants the same network waits for it; several processes of one program train it together, over
    all their devices, and each has it on its first device then.

    Args:
      out: the folder of the study.
      network: where to start.
      loss: per-example loss.
      tx: the transformation, without its mask.
      data: what it is trained on.
      identity: what decides the network and cannot be read off the arrays: module, rate, and their kin.
      mask: of the weights that stay; None: all.
      fit: further arguments of ``jp.train.fit``.
    """
    start = [network.params, network.state, *([] if mask is None else [mask])]
    named = {**identity, "steps": fit["steps"], "batch_size": fit["batch_size"], "seed": fit["seed"]}
    named["start"] = records.fingerprint(*map(np.asarray, jax.tree.leaves(start)))
    named["data"] = records.fingerprint(data["image"], data["label"])
    folder = check.writable("out", out / "checkpoints" / records.digest(named)[:16])
    with hosts.held(folder.with_suffix(".claim")):
        masked = tx if mask is None else jp.optim.with_mask(tx, mask)
        return hosts.here(fitted(network, loss, masked, data, folder=folder, **fit))


def fitted(*arguments: Any, **fit: Any) -> jp.Network:
    """Trains as ``jp.train.fit`` does, over the devices of all processes; then the network lies on all of them."""
    if not processes.is_first():
        fit = {**fit, "progress": None}
    return jp.train.fit(*arguments, placement=hosts.placement(), **fit)
