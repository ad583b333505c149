"""One training step, compiled: augmentation, gradient, update; nothing changes where something is not finite."""

import functools
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import losses, optim
from jaxprune.finite import breaks
from jaxprune.network import Network
from jaxprune.types import Batch, Loss

Augment = Callable[[Batch, Any], Batch]
"""``augment(batch, key) -> batch``, a pure function of as many examples."""


@dataclass(frozen=True)
class Functions:
    """What a step is made of, besides numbers.

    Attributes:
      loss: of each example.
      update: ``tx.update``.
      program: its jaxpr.
      augment: or None.
      rngs: the names of the random streams, sorted.
    """

    loss: Loss
    update: Any
    program: Any
    augment: Augment | None
    rngs: tuple[str, ...]

    @property
    def static(self) -> dict[str, Any]:
        """What ``step`` takes by name."""
        return {"loss": self.loss, "update": self.update, "augment": self.augment, "rngs": self.rngs}


@functools.partial(
    jax.jit, static_argnames=("loss", "update", "augment", "rngs"), donate_argnames=("network", "optimizer")
)
def step(
    network: Network,
    optimizer: Any,
    batch: Batch,
    key: jax.Array,
    *,
    loss: Loss,
    update: Callable[..., Any],
    augment: Augment | None = None,
    rngs: tuple[str, ...] = ("dropout",),
) -> tuple[Network, Any, dict[str, Any]]:
    """Takes one step of an optax transformation on the weighted mean loss of a batch.

    If the loss or a gradient is not finite, or the step would make NaN or infinity of a weight or of a number of the
    state or the optimizer, nothing changes and ``"finite"`` is False.  What was infinite before and stays as it is (an
    attention mask of -inf, a threshold of infinity) does no harm.

    Args:
      network: trained by ``train_apply`` where it has one, else as it stands.  Its buffers are given up (donated).
      optimizer: the state of the transformation; donated.
      batch: images, labels, weights.
      key: of this step.  The stream ``"dropout"`` gets it as it is; every other one, and ``augment``, get keys of their
        own, which are made of this one and a name, so that further streams change no other's numbers.
      loss: per-example loss.
      update: ``tx.update``; equal functions share one compiled step.  If it takes them, it gets ``value``, ``grad``,
        ``value_fn``, ``obj_fn`` and ``grad_fn`` of this batch.
      augment: ``(batch, key) -> batch``, applied first.  None: the batch as it is.
      rngs: the names of the random streams of ``train_apply``.

    Returns:
      (network, optimizer, {"loss": mean loss before the step, "gradient_norm", "finite", "broken": for every leaf of
      (params, state, optimizer) whether it would not be finite}).
    """
    if augment is not None:
        batch = augment(batch, augmentation_key(key))

    def value(params: Any) -> tuple[Any, Any]:
        outputs, state = forward(network, params, batch["image"], key, rngs)
        return losses.mean(loss, outputs, batch), state

    (current, state), gradient = jax.value_and_grad(value, has_aux=True)(network.params)
    norm = optax.tree.norm(gradient)
    extra = optim.arguments(lambda point: value(point)[0], current, gradient)
    updates, new_optimizer = optim.call(update, gradient, optimizer, network.params, extra)
    before = (network.params, network.state, optimizer)
    after = (optax.apply_updates(network.params, updates), state, new_optimizer)
    broken = breaks(before, after)
    finite = jnp.isfinite(current) & jnp.isfinite(norm) & ~jnp.any(broken)
    params, state, optimizer = jax.tree.map(lambda old, new: jnp.where(finite, new, old), before, after)
    metrics = {"loss": current, "gradient_norm": norm, "finite": finite, "broken": broken}
    return network.replace(params=params, state=state), optimizer, metrics


def forward(network: Network, params: Any, images: Any, key: Any, rngs: Collection[str]) -> tuple[Any, Any]:
    """Evaluates a network as training does: (outputs, state)."""
    if network.train_apply is None:
        return network.apply(params, network.state, images), network.state
    keys = {name: key if name == "dropout" else _derived(key, f"stream/{name}") for name in rngs}
    return network.train_apply(params, network.state, images, keys)


def augmentation_key(key: Any) -> Any:
    """The key of the augmentation, of that of a step."""
    return _derived(key, "augment")


def stream_names(rngs: Any) -> tuple[str, ...]:
    """Checks names of random streams; sorted, since their order changes nothing.

    Raises:
      ValueError: they are no collection of different names.

    >>> stream_names(["noise", "dropout"])
    ('dropout', 'noise')
    """
    names = [] if isinstance(rngs, str) or not isinstance(rngs, Collection) else list(rngs)
    wrong = not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names)
    if wrong or (not names and rngs != ()):
        raise ValueError(
            "rngs: expected the names of the random streams of train_apply, all different, such as ('dropout', "
            f"'noise'), but got {rngs!r}. Pass a tuple of names."
        )
    return tuple(sorted(names))


def _derived(key: Any, name: str) -> Any:
    # Not hash(): that of a text is another one in every process.
    return jax.random.fold_in(key, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
