"""Modules of Flax NNX as pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprune.libraries import calls
from jaxprune.libraries.calls import Path
from jaxprune.types import State


def parts(model: Any, train: Mapping[str, Any] | None) -> tuple[Any, Any, State, Any]:
    """Takes a module apart: ``(apply, params, state, train_apply)``.

    Raises:
      ValueError: it is no module of NNX, or is called in another way, or has static attributes without a hash.
    """
    if not isinstance(model, nnx.Module):
        raise ValueError(f"model: expected a module of flax.nnx, but got a {type(model).__name__}.")
    asked = calls.taken(model, ("rngs",), train)
    model = nnx.clone(model)
    nnx.pop(model, nnx.Intermediate)  # what was sown by earlier calls: of other shapes at every batch size
    model.train()
    training = _Program.of(model)
    model.eval()
    evaluation = _Program.of(model)
    leaves = nnx.to_flat_state(nnx.state(model))
    trees = {
        kind: calls.own(calls.nested((path, _value(leaf)) for path, leaf in leaves if _kind(leaf) == kind))
        for kind in ("params", "state")
    }
    apply = _Apply(evaluation, asked.get("rngs", False))
    train_apply = _TrainApply(training, "rngs" in asked, tuple(sorted((train or {}).items())))
    return apply, trees["params"], trees["state"], train_apply


@dataclass(frozen=True)
class _Program:
    """What of a module is no array of a network: its graph, and for every leaf where its value comes from."""

    graph: Any
    leaves: tuple[tuple[str, Path, tuple[int, ...]], ...]

    @staticmethod
    def of(module: Any) -> "_Program":
        graph, state = nnx.split(module)
        leaves = [(_kind(leaf), path, leaf) for path, leaf in nnx.to_flat_state(state)]
        shapes = {path: jnp.shape(_value(leaf)) for kind, path, leaf in leaves if kind in ("key", "count")}
        program = _Program(graph, tuple((kind, path, shapes.get(path, ())) for kind, path, _ in leaves))
        calls.hashed(program)
        return program

    def __hash__(self) -> int:
        return self._hash

    @cached_property  # JAX asks at every call, and a graph is long
    def _hash(self) -> int:
        return hash((self.graph, self.leaves))

    @property
    def draws(self) -> bool:
        return any(kind == "key" for kind, _, _ in self.leaves)

    def module(self, params: Any, state: State, key: Any) -> Any:
        """Puts the module together again; its random streams start anew, from one key."""
        values = []
        for number, (kind, path, shape) in enumerate(self.leaves):
            if kind == "key":
                own = jax.random.fold_in(key, number)
                values.append(jax.random.split(own, shape) if shape else own)
            elif kind == "count":
                values.append(jnp.zeros(shape, jnp.uint32))
            else:
                values.append(calls.at(params if kind == "params" else state, path))
        return nnx.merge(self.graph, values)

    def state(self, module: Any) -> State:
        """Returns what a call has made of the state."""
        found = dict(nnx.to_flat_state(nnx.state(module)))
        return calls.nested((path, _value(found[path])) for kind, path, _ in self.leaves if kind == "state")


def _value(leaf: Any) -> Any:
    return leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else leaf


def _kind(leaf: Any) -> str:
    """Whether a leaf is trained, carried, or a part of a random stream."""
    if isinstance(leaf, nnx.RngKey):
        return "key"
    if isinstance(leaf, nnx.RngCount):
        return "count"
    values = jax.tree.leaves(_value(leaf))
    inexact = values and all(jnp.issubdtype(jnp.result_type(value), jnp.inexact) for value in values)
    return "params" if isinstance(leaf, nnx.Param) and inexact else "state"


@dataclass(frozen=True)
class _Apply:
    program: _Program
    demands_rngs: bool

    def __call__(self, params: Any, state: State, images: Any) -> Any:
        arguments = {"rngs": None} if self.demands_rngs else {}

        def outputs(key: Any) -> Any:
            return self.program.module(params, state, key)(images, **arguments)

        return calls.unrandom(outputs) if self.program.draws else outputs(None)

    def model(self, params: Any, state: State) -> Any:
        return self.program.module(params, state, jax.random.key(0))


@dataclass(frozen=True)
class _TrainApply:
    program: _Program
    takes_rngs: bool
    arguments: tuple[tuple[str, Any], ...]

    def __call__(self, params: Any, state: State, images: Any, rngs: Any) -> tuple[Any, State]:
        # Streams of the module count from 0; what is passed at the call is one more.
        key = rngs["dropout"]
        module = self.program.module(params, state, key)
        passed = {"rngs": nnx.Rngs(jax.random.fold_in(key, len(self.program.leaves)))} if self.takes_rngs else {}
        outputs = module(images, **passed, **dict(self.arguments))
        return outputs, self.program.state(module)
