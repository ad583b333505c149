"""A network as a pure function of a pytree, whatever library wrote it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
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
    def module(self) -> "nn.Module":
        """The Flax linen module that ``from_linen`` wrapped.

        Raises:
          ValueError: the network was made in another way, or has been changed since (a head, gates).

        >>> from flax import linen as nn
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
    def from_linen(module: "nn.Module", variables: Any, train: dict[str, Any] | None = None) -> "Network":
        """Wraps a Flax linen module: ``apply`` is ``module.apply(variables, images)`` and nothing else.

        Args:
          module: the module.  Called without further arguments it must mean evaluation mode.
          variables: what ``module.init`` returned.  Leaves may be ``jax.ShapeDtypeStruct``.
          train: the keyword arguments that mean training mode, such as ``{"train": True}``.  None: the training step
            evaluates the network as it stands (BatchNorm frozen, no dropout), of which ``jp.train.fit`` warns where
            there are ``"batch_stats"``; ``{}`` says that this is meant.

        Raises:
          ValueError: variables without ``"params"``.

        Returns:
          A network with ``variables["params"]`` as parameters and every other collection as state.

        >>> from flax import linen as nn
        >>> module = nn.Dense(2)
        >>> images = jax.numpy.ones((1, 3))
        >>> net = Network.from_linen(module, module.init(jax.random.key(0), images))
        >>> net(images).shape
        (1, 2)
        """
        if not isinstance(variables, Mapping) or "params" not in variables:
            came = f"{sorted(variables)}" if isinstance(variables, Mapping) else f"a {type(variables).__name__}"
            raise ValueError(
                f"variables: expected what module.init returned, a dictionary with 'params', but got {came}. Pass "
                '{"params": params} for a module without other collections.'
            )
        state = {name: collection for name, collection in variables.items() if name != "params"}
        train_apply = None if train is None else _LinenTrainApply(module, tuple(sorted(train.items())))
        return Network(_LinenApply(module), variables["params"], state, train_apply)

    @staticmethod
    def from_nnx(model: Any, train: Mapping[str, Any] | None = None) -> "Network":
        """Wraps a module of Flax NNX; the module itself is never changed.

        ``apply`` is the module after ``model.eval()``, ``train_apply`` after ``model.train()``: BatchNorm and Dropout
        need no argument.  Names are those of linen, such as ``"conv/kernel"``.  Random streams (``nnx.Rngs``) are no
        part of the state: in training they start anew at every step, from ``rngs["dropout"]``.

        Args:
          model: the module.  It is called as ``model(images)``, or ``model(images, rngs=...)`` where it takes ``rngs``;
            without further arguments it must mean evaluation mode.  It may be abstract (``nnx.eval_shape``).
          train: further keyword arguments of the call that mean training mode, such as ``{"train": True}``; ``{}`` for
            a module with a switch that is none of those.

        Returns:
          A network with every ``nnx.Param`` of floats as parameters and all other variables as state, both plain
          dictionaries; ``to_model`` leads back.

        Raises:
          ValueError: the model is no NNX module; it demands other arguments, or has a switch and ``train`` is None; a
            static attribute cannot be hashed.  When the network is first called: it draws random numbers in evaluation.

        >>> from flax import nnx
        >>> net = Network.from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
        >>> net(jax.numpy.ones((1, 3))).shape, net.params["kernel"].shape
        ((1, 2), (3, 2))
        """
        from jaxprune.libraries import nnx  # here, so that importing jaxprune stays cheap

        return Network(*nnx.parts(model, train))

    @staticmethod
    def from_equinox(
        model: Any, state: Any = None, *, channels_first: bool = False, train: Mapping[str, Any] | None = None
    ) -> "Network":
        """Wraps a module of Equinox, which takes one example: the network maps it over the batch.

        ``apply`` is the model after ``eqx.nn.inference_mode(model)``, ``train_apply`` after
        ``eqx.nn.inference_mode(model, False)``, with one key for each example, split from ``rngs["dropout"]``.  The
        batch axis has the name that the model's BatchNorm layers ask for, else ``"batch"``.  Of BatchNorm layers with
        ``mode="batch"`` the state holds ``momentum ** counter`` as ``"warmup"`` instead of the counter.

        Args:
          model: the module.  It is called as ``model(image)``, with ``state=`` and ``key=`` where it takes arguments of
            these names; with a state it returns ``(output, state)``.  Without further arguments it must mean evaluation
            mode.
          state: what ``eqx.nn.make_with_state`` returned beside the model.  None: of a model without layers that have a
            state, or one that was made without ``make_with_state``.
          channels_first: True: images [b, h, w, c] are given to the model as [c, h, w], as Equinox's convolutions want
            them.  False: an example is given as it is.
          train: as in ``from_nnx``.

        Returns:
          A network with every array of floats as parameters, and the state and all other arrays as state, both plain
          dictionaries named by attributes, such as ``"layers/0/weight"``; ``to_model`` leads back.  Kernels are
          [out, in, ...], so the input axis of ``jp.masks.n_of_m`` is 1.

        Raises:
          ModuleNotFoundError: Equinox is not installed.
          ValueError: the model is no Equinox module; it demands other arguments, or has a switch and ``train`` is None;
            its state is missing, or never passed through; BatchNorm layers want several axes; a static attribute cannot
            be hashed.  When the network is first called: it draws random numbers in evaluation.

        >>> import equinox as eqx
        >>> net = Network.from_equinox(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
        >>> net(jax.numpy.ones((1, 3))).shape, net.params["weight"].shape
        ((1, 2), (2, 3))
        """
        from jaxprune.libraries import equinox  # here, because it is no dependency

        return Network(*equinox.parts(model, state, channels_first, train))

    def to_model(self) -> Any:
        """Returns what ``from_nnx`` or ``from_equinox`` took, with this network's parameters and state.

        It is a new model in evaluation mode, to be saved by its library's own means or trained by its own loops; random
        streams of an NNX module start from ``jax.random.key(0)``.

        Returns:
          An NNX module; or an Equinox module, together with its state where it takes one: ``(model, state)``.

        Raises:
          ValueError: the network was made in another way, or has been changed since (a head, gates).

        >>> from flax import nnx
        >>> net = Network.from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
        >>> type(net.replace(params=jax.tree.map(jax.numpy.zeros_like, net.params)).to_model()).__name__
        'Linear'
        """
        if not hasattr(self.apply, "model"):
            raise ValueError(
                f"network: expected one that Network.from_nnx or from_equinox made, but its apply is a "
                f"{type(self.apply).__name__}. Pass the network as it was before a head, gates or a normalisation were "
                "put on it; of one from linen, module, params and state are all there is."
            )
        return self.apply.model(self.params, self.state)  # type: ignore[attr-defined]


# Frozen dataclasses rather than closures, so that equal networks compare equal and never compile twice.
@dataclass(frozen=True)
class _LinenApply:
    module: "nn.Module"

    def __call__(self, params: Any, state: State, images: Any) -> Any:
        return self.module.apply({"params": params, **state}, images)


@dataclass(frozen=True)
class _LinenTrainApply:
    module: "nn.Module"
    arguments: tuple[tuple[str, Any], ...]

    def __call__(self, params: Any, state: State, images: Any, rngs: Any) -> tuple[Any, State]:
        variables = {"params": params, **state}
        outputs, state = self.module.apply(variables, images, rngs=rngs, mutable=list(state), **dict(self.arguments))
        return outputs, state
