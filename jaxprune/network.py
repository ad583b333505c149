"""A network as a pure function of a pytree, whatever library wrote it."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
from flax import linen as nn

from jaxprune.types import Apply, State, TrainApply


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Network:
    """A pure function and what it is evaluated at: ``apply(params, state, images) -> outputs [b, c]``.

    A network is a pytree whose leaves are the parameters and the state, so it passes through ``jax.jit`` as an
    argument.  ``apply`` is static and compares by value: two networks whose ``apply`` are equal share one compiled
    program.  It means evaluation mode (BatchNorm on stored statistics) everywhere; only the training step uses
    ``train_apply``.

    Attributes:
      apply: ``(params, state, images) -> outputs [b, c]``, pure.
      params: the weights, float leaves in any nesting of containers.
      state: what is not trained (BatchNorm statistics, a frozen head).  May be ``{}``.
      train_apply: ``(params, state, images, rngs) -> (outputs, state)``, or None: then training uses ``apply`` and
        leaves the state as it is.

    >>> import jax.numpy as jnp
    >>> net = Network(lambda params, state, images: images @ params["w"], {"w": jnp.ones((3, 2))})
    >>> net(jnp.ones((1, 3)))
    Array([[3., 3.]], dtype=float32)
    """

    apply: Apply = field(metadata={"static": True})
    params: Any
    state: State = field(default_factory=dict)
    train_apply: TrainApply | None = field(default=None, metadata={"static": True})

    def __call__(self, images: Any) -> Any:
        """Evaluates the network: ``images [b, ...] -> outputs [b, c]``."""
        return self.apply(self.params, self.state, images)

    def replace(self, **changes: Any) -> "Network":
        """Returns the network with other ``params``, ``state``, ``apply`` or ``train_apply``."""
        return replace(self, **changes)

    @property
    def module(self) -> nn.Module:
        """The Flax linen module that ``from_linen`` wrapped.

        Raises:
          ValueError: the network was made in another way, or has been changed since (a head, gates).

        >>> Network.from_linen(nn.Dense(2), {"params": {}}).module.features
        2
        """
        if not isinstance(self.apply, _LinenApply):
            raise ValueError(
                f"network: expected one that Network.from_linen made, but its apply is a {type(self.apply).__name__}. "
                "Pass the network as it was before a head, gates or a normalisation were put on it."
            )
        return self.apply.module

    @staticmethod
    def from_linen(module: nn.Module, variables: Any, train: dict[str, Any] | None = None) -> "Network":
        """Wraps a Flax linen module: ``apply`` is ``module.apply(variables, images)`` and nothing else.

        Args:
          module: the module.  Called without further arguments it must mean evaluation mode.
          variables: what ``module.init`` returned.  Leaves may be ``jax.ShapeDtypeStruct``.
          train: the keyword arguments that mean training mode, such as ``{"train": True}``.  None: the training step
            evaluates the network as it stands (BatchNorm frozen, no dropout).

        Returns:
          A network with ``variables["params"]`` as parameters and every other collection as state.

        >>> module = nn.Dense(2)
        >>> images = jax.numpy.ones((1, 3))
        >>> net = Network.from_linen(module, module.init(jax.random.key(0), images))
        >>> net(images).shape
        (1, 2)
        """
        state = {name: collection for name, collection in variables.items() if name != "params"}
        train_apply = None if train is None else _LinenTrainApply(module, tuple(sorted(train.items())))
        return Network(_LinenApply(module), variables["params"], state, train_apply)


# Frozen dataclasses rather than closures, so that equal networks compare equal and never compile twice.
@dataclass(frozen=True)
class _LinenApply:
    module: nn.Module

    def __call__(self, params: Any, state: State, images: Any) -> Any:
        return self.module.apply({"params": params, **state}, images)


@dataclass(frozen=True)
class _LinenTrainApply:
    module: nn.Module
    arguments: tuple[tuple[str, Any], ...]

    def __call__(self, params: Any, state: State, images: Any, rngs: Any) -> tuple[Any, State]:
        variables = {"params": params, **state}
        outputs, state = self.module.apply(variables, images, rngs=rngs, mutable=list(state), **dict(self.arguments))
        return outputs, state
