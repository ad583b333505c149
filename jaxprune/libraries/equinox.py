"""Models of Equinox as pure functions of a batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.libraries import calls
from jaxprune.types import State

try:
    import equinox as eqx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("Network.from_equinox: Equinox is not installed. pip install equinox") from error

_FOREVER = 2**30


def parts(model: Any, state: Any, channels_first: bool, train: Mapping[str, Any] | None) -> tuple[Any, Any, State, Any]:
    """Takes a model apart: ``(apply, params, state, train_apply)``.

    Raises:
      ValueError: it is no module of Equinox, or is called in another way, or its state is elsewhere, or it has static
        attributes without a hash.
    """
    if not isinstance(model, eqx.Module):
        raise ValueError(f"model: expected a module of Equinox, but got a {type(model).__name__}.")
    asked = calls.taken(model, ("state", "key"), train)
    model, state = _with_state(model, state)
    stateful = bool(jax.tree.leaves(state))
    if stateful and "state" not in asked:
        raise ValueError(
            f"model: expected __call__(self, image, state), since it has layers with a state, but that of "
            f"{type(model).__name__} takes none. Pass the state through: x, state = self.norm(x, state)."
        )
    form = _Form(stateful or asked.get("state", False), _axis_name(model), channels_first)
    names = _names(model, state)
    leaves = jax.tree.leaves((model, state))
    trees: dict[str, list[Any]] = {"params": [], "state": []}
    for (kind, path, momentum), leaf in zip(names, leaves, strict=True):
        if kind != "static":
            trees[kind].append((path, leaf if momentum is None else _warmup(leaf, momentum)))
    made = {kind: calls.own(calls.nested(entries)) for kind, entries in trees.items()}
    apply = _Apply(_Program.of(model, state, True), form, asked.get("key", False))
    arguments = tuple(sorted((train or {}).items()))
    train_apply = _TrainApply(_Program.of(model, state, False), form, "key" in asked, arguments)
    return apply, made["params"], made["state"], train_apply


def _with_state(model: Any, state: Any) -> tuple[Any, Any]:
    """Returns the model without its initial state, and the state."""
    if state is not None:
        if not isinstance(state, eqx.nn.State):
            raise ValueError(f"state: expected what eqx.nn.make_with_state returned, but got a {type(state).__name__}.")
        return model, state
    indices = [leaf for leaf in jax.tree.leaves(model, is_leaf=_is_index) if _is_index(leaf)]
    if any(not jax.tree.leaves(index) for index in indices):
        raise ValueError(
            "state: expected the state of the model's BatchNorm, but got None. Pass both that "
            "eqx.nn.make_with_state(Model)(...) returned: Network.from_equinox(model, state)."
        )
    # It names every state by its path, so that equal models have equal states.
    return eqx.nn.make_with_state(lambda: model)()


def _is_index(node: Any) -> bool:
    return isinstance(node, eqx.nn.StateIndex)


def _is_norm(node: Any) -> bool:
    return isinstance(node, eqx.nn.BatchNorm)


def _axis_name(model: Any) -> str:
    """The name of the batch axis that the model's BatchNorm layers ask for."""
    norms = [node for node in jax.tree.leaves(model, is_leaf=_is_norm) if _is_norm(node)]
    found = {
        name for norm in norms for name in ([norm.axis_name] if isinstance(norm.axis_name, str) else norm.axis_name)
    }
    if len(found) > 1:
        raise ValueError(
            f"model: expected one axis_name in all BatchNorm layers, the batch, but got {sorted(map(str, found))}. "
            "Give all of them axis_name='batch'."
        )
    return found.pop() if found else "batch"


def _names(model: Any, state: Any) -> list[tuple[str, Any, float | None]]:
    """Says of every leaf of (model, state) what it is, where it is kept, and, of a counter, the momentum.

    A leaf is static (and kept by itself), or in the parameters, or in the state.
    """
    names: list[tuple[str, Any, float | None]] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        if not (eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)):
            names.append(("static", leaf, None))
        else:
            kind = "params" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "state"
            names.append((kind, tuple(map(_part, path)), None))
    # The leaves of a State have no names of their own; those of its indices, in the model, are theirs.
    values, structure = jax.tree.flatten(state)
    numbered = jax.tree.unflatten(structure, range(len(values)))
    found: dict[int, tuple[str, Any, float | None]] = {}
    momenta = _counters(model)
    for path, node in jax.tree_util.tree_leaves_with_path(model, is_leaf=_is_index):
        if _is_index(node):
            for inner, number in jax.tree_util.tree_leaves_with_path(numbered.get(node)):
                place = tuple(map(_part, (*path, *inner)))
                momentum = momenta.get(node.marker)
                found[number] = ("state", place if momentum is None else (*place[:-1], "warmup"), momentum)
    return [*names, *(found[number] for number in range(len(values)))]


def _part(key: Any) -> Any:
    return next(getattr(key, name) for name in ("name", "key", "idx") if hasattr(key, name))


def _counters(model: Any) -> dict[Any, float]:
    """The momentum of every BatchNorm layer that divides its statistics by 1 - momentum^counter, by the counter."""
    norms = [node for node in jax.tree.leaves(model, is_leaf=_is_norm) if _is_norm(node)]
    return {norm.batch_counter.marker: norm.momentum for norm in norms if norm.batch_counter is not None}


# What is kept is momentum^counter.  It moves as the statistics themselves do, m s + (1 - m) 0, so that recalibrated
# statistics come with 0: there is no beginning in them that would have to be divided out.
def _warmup(counter: Any, momentum: float) -> Any:
    power = lambda count: jnp.asarray(momentum) ** count  # noqa: E731
    return jax.eval_shape(power, counter) if isinstance(counter, jax.ShapeDtypeStruct) else power(counter)


def _counter(warmup: Any, momentum: float) -> Any:
    count = jnp.where(warmup > 0, jnp.log(warmup) / jnp.log(jnp.asarray(momentum)), _FOREVER)
    return jnp.round(count).astype(jnp.asarray(0).dtype)


@dataclass(frozen=True)
class _Program:
    """What of a model and its state is no array of a network."""

    structure: Any
    leaves: tuple[tuple[str, Any, float | None], ...]

    @staticmethod
    def of(model: Any, state: Any, inference: bool) -> "_Program":
        model = eqx.nn.inference_mode(model, inference)
        program = _Program(jax.tree.structure((model, state)), tuple(_names(model, state)))
        calls.hashed(program)
        return program

    def __hash__(self) -> int:
        return self._hash

    @cached_property  # JAX asks at every call, and a structure is long
    def _hash(self) -> int:
        return hash((self.structure, self.leaves))

    def model(self, params: Any, state: State) -> tuple[Any, Any]:
        """Puts the model and its state together again."""
        trees = {"params": params, "state": state}
        values = []
        for kind, place, momentum in self.leaves:
            value = place if kind == "static" else calls.at(trees[kind], place)
            values.append(value if momentum is None else _counter(value, momentum))
        return jax.tree.unflatten(self.structure, values)

    def state(self, model: Any, state: Any) -> State:
        """Returns what a call has made of the state."""
        values = jax.tree.leaves((model, state))
        return calls.nested(
            (path, value if momentum is None else _warmup(value, momentum))
            for (kind, path, momentum), value in zip(self.leaves, values, strict=True)
            if kind == "state"
        )


@dataclass(frozen=True)
class _Form:
    """How a model is called on a batch: Equinox's models take one example."""

    passes_state: bool
    axis_name: str
    channels_first: bool

    def call(self, model: Any, state: Any, images: Any, keys: Any, arguments: dict[str, Any]) -> tuple[Any, Any]:
        """Maps the model over images and, where they are, keys: ``(outputs, state)``."""

        def one(image: Any, state: Any, key: Any) -> tuple[Any, Any]:
            passed = {**arguments, **({} if key is None else {"key": key})}
            if not self.passes_state:
                return model(image, **passed), state
            result = model(image, state=state, **passed)
            if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], eqx.nn.State)):
                raise ValueError(
                    f"model: expected (output, state) of a model that takes a state, but that of "
                    f"{type(model).__name__} returned a {type(result).__name__}. Return x, state."
                )
            return result

        if self.channels_first:
            images = jnp.moveaxis(images, -1, 1)
        mapped = jax.vmap(one, in_axes=(0, None, 0), out_axes=(0, None), axis_name=self.axis_name)
        return mapped(images, state, keys)


@dataclass(frozen=True)
class _Apply:
    program: _Program
    form: _Form
    demands_key: bool

    def __call__(self, params: Any, state: State, images: Any) -> Any:
        model, held = self.program.model(params, state)

        def outputs(key: Any) -> Any:
            keys = None if key is None else jax.random.split(key, len(images))
            return self.form.call(model, held, images, keys, {})[0]

        return calls.unrandom(outputs) if self.demands_key else outputs(None)

    def model(self, params: Any, state: State) -> Any:
        model, held = self.program.model(params, state)
        return (model, held) if self.form.passes_state else model


@dataclass(frozen=True)
class _TrainApply:
    program: _Program
    form: _Form
    takes_key: bool
    arguments: tuple[tuple[str, Any], ...]

    def __call__(self, params: Any, state: State, images: Any, rngs: Any) -> tuple[Any, State]:
        model, held = self.program.model(params, state)
        keys = jax.random.split(rngs["dropout"], len(images)) if self.takes_key else None
        outputs, held = self.form.call(model, held, images, keys, dict(self.arguments))
        return outputs, self.program.state(model, held)
