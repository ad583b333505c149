"""Batches that say what a network answers to them: what another one is compared with."""

from collections.abc import Iterable
from typing import Any

import jax

from jaxprune import check, losses
from jaxprune.network import Network
from jaxprune.sites import outputs_at
from jaxprune.types import Batch


def with_teacher(batches: Iterable[Batch], network: Network, at: str | None = None) -> list[dict[str, Any]]:
    """Adds ``"teacher"`` to batches: the outputs of a network, in evaluation mode, for ``jp.losses.distillation``.

    All other entries stay as they are; labels are not needed.  The data of a training is one batch:
    ``(data,) = with_teacher([data], network)``.  A teacher is of the images as they are: with an augmentation
    ``jp.train.fit`` refuses it.

    Args:
      batches: images, and whatever else.
      network: the teacher.
      at: the name of a value that the network tags, for a loss that is taken there.  None: its outputs.

    Returns:
      The batches in a list, which holds them in memory.

    Raises:
      ValueError: a batch that has a teacher already, or whose parts do not fit; NaN anywhere; no such value; outputs
        that are not [b, c].
      TypeError: a single batch; outputs that are not floating-point.

    >>> import jax.numpy as jnp
    >>> net = Network(lambda p, s, x: x @ p, 2 * jnp.eye(2))
    >>> with_teacher([{"image": jnp.ones((1, 2))}], net)[0]["teacher"]
    Array([[2., 2.]], dtype=float32)
    """
    check.network(network)
    teacher, taught = network if at is None else outputs_at(network, at), []
    for batch in check.batches(batches):
        check.batch(batch)
        check.finite_batch(batch)
        if "teacher" in batch:
            raise ValueError("batches: expected none with a 'teacher', but it has one already. Leave that out.")
        answers = _answers(teacher, {name: batch[name] for name in ("image", "weight") if name in batch})
        check.outputs(answers, losses.examples(batch))
        taught.append({**batch, "teacher": answers})
    return taught


@jax.jit
@jax.default_matmul_precision("highest")
def _answers(network: Network, batch: Batch) -> Any:
    return network(losses.images(batch))
