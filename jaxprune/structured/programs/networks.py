"""A network whose functions are written programs: equal by what is written, evaluated for any number of images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import tree
from jaxprune.network import Network
from jaxprune.sites.depthwise import to_read
from jaxprune.sites.rules import Run
from jaxprune.structured.programs import sizes
from jaxprune.structured.programs.reading import Reader
from jaxprune.structured.programs.values import STORED, Unknown, dtype
from jaxprune.structured.programs.writing import Writer


@dataclass(frozen=True, eq=False)
class Written:
    """What is written of a network, but for its weights; it compares by a hash of all of it.

    Attributes:
      document: trees, types and programs.
      constants: the arrays that programs have of their own.
      digest: of both.
    """

    document: Mapping[str, Any]
    constants: tuple[np.ndarray, ...]
    digest: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Written) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def network(self, params: Any, state: Any) -> Network:
        """Makes the network with these parameters and this state."""
        train = None if self.document["train"] is None else _TrainApply(self)
        return Network(_Apply(self), params, state, train)

    def given(self, params: Any, state: Any, images: Any) -> list[Any]:
        """Checks what a network is given, and returns the leaves.

        Raises:
          ValueError: another structure, or other shapes.
          TypeError: other types of numbers.
        """
        leaves: list[Any] = []
        for where, part in (("params", params), ("state", state)):
            want, structure = jax.tree.flatten(shapes(self.document[where]))
            found, now = jax.tree.flatten(part)
            if now != structure:
                raise ValueError(
                    f"network: expected {where} of the structure that was saved, {str(structure)[:200]}, but got "
                    f"{str(now)[:200]}."
                )
            for name, one, leaf in zip(tree.names(part), want, found, strict=True):
                _demand(f"{where}/{name}", leaf, one.shape, one.dtype)
            leaves += found
        kind, shape = self.document["image"]
        _demand("images", images, (np.shape(images)[:1] or (0,)) + tuple(shape), kind)
        return [*leaves, images]


@dataclass(frozen=True)
class _Apply:
    written: Written

    def __call__(self, params: Any, state: Any, images: Any) -> Any:
        return _run(self.written, "apply", self.written.given(params, state, images), np.shape(images)[0])[0]


@dataclass(frozen=True)
class _TrainApply:
    written: Written

    def __call__(self, params: Any, state: Any, images: Any, rngs: Any) -> tuple[Any, Any]:
        names = self.written.document["rngs"]
        if sorted(rngs) != list(names):
            raise ValueError(
                f"rngs: expected those that the network was saved with, {list(names)}, but got {sorted(rngs)}."
            )
        leaves = [*self.written.given(params, state, images), *(rngs[name] for name in names)]
        outputs, *rest = _run(self.written, "train", leaves, np.shape(images)[0])
        return outputs, jax.tree.unflatten(jax.tree.structure(state), rest)


def _run(written: Written, part: str, leaves: Sequence[Any], count: Any) -> list[Any]:
    try:
        # A number of images that is open compares with its like only.
        program = _read(written, part, count) if isinstance(count, int) else _read.__wrapped__(written, part, count)
        return program(leaves)
    except Unknown as unknown:
        raise ValueError(
            f"network: the program that was saved cannot be evaluated for {count} images: {unknown}. It was saved by "
            f"JAX {written.document['jax']}, and this is JAX {jax.__version__}."
        ) from unknown


@lru_cache(maxsize=64)
def _read(written: Written, part: str, count: Any) -> Run:
    return Reader(written.constants).program(sizes.at(written.document[part], count))


def _demand(name: str, leaf: Any, shape: tuple[Any, ...], kind: Any) -> None:
    if jnp.shape(leaf) != shape:
        raise ValueError(f"network: expected {name} of the shape that was saved, {shape}, but got {jnp.shape(leaf)}.")
    if jnp.result_type(leaf) != kind:
        raise TypeError(
            f"network: expected {name} of the type that was saved, {np.dtype(kind).name}, but got "
            f"{jnp.result_type(leaf)}. A program that was saved is of these types alone: cast it, or save the network "
            "with the others."
        )


def shapes(described: Any) -> Any:
    """Reads a tree of types."""
    match described:
        case {"dict": list(inner)} if len(described) == 1:
            if all(isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int) for pair in inner):
                return {key: shapes(one) for key, one in inner}
        case {"list": list(inner)} if len(described) == 1:
            return [shapes(one) for one in inner]
        case {"tuple": list(inner)} if len(described) == 1:
            return tuple(shapes(one) for one in inner)
        case [str(kind), list(shape)] if all(type(one) is int and one >= 0 for one in shape):
            return jax.ShapeDtypeStruct(tuple(shape), dtype(kind))
        case None:
            return None
    raise Unknown(f"the tree {str(described)[:80]}")


def described(where: str, value: Any) -> Any:
    """Writes a tree of types: of dictionaries, lists, tuples, None and arrays.

    Raises:
      ValueError: it holds something else.
    """
    if value is None:
        return None
    if isinstance(value, dict) and all(type(key) in (str, int) for key in value):
        return {"dict": [[key, described(f"{where}/{key}", one)] for key, one in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [described(f"{where}/{place}", one) for place, one in enumerate(value)]}
    if not jax.tree_util.all_leaves([value]) or isinstance(value, dict):
        raise ValueError(
            f"{where}: expected dictionaries by names or numbers, lists, tuples and arrays, but found a "
            f"{type(value).__name__}. Make plain containers of it, and a function that takes them."
        )
    kind = jnp.result_type(value)
    if kind.name not in STORED:
        raise ValueError(f"{where}: expected numbers, but got {kind}. Cast it to float32 first.")
    return [kind.name, list(np.shape(value))]


def program(function: Callable[..., Any], arguments: Callable[[int], tuple[Any, ...]]) -> tuple[Any, list[np.ndarray]]:
    """Writes the program of a function for any number of images, and the arrays that it has of its own.

    Args:
      function: pure.
      arguments: those for a number of images, as shapes.

    Raises:
      Unknown: it holds what the format does not.
    """
    documents, constants = [], []
    for count in sizes.COUNTS:
        closed = to_read(function, *arguments(count))
        if closed.effects:
            raise Unknown(f"side effects, {closed.effects}")
        writer = Writer()
        documents.append(writer.program(closed.jaxpr, closed.consts))
        constants.append(writer.constants)
    first = constants[0]
    for others in constants[1:]:
        same = [
            np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
            for one, other in zip(first, others, strict=False)
        ]
        if len(others) != len(first) or not all(same):
            raise Unknown("an array of its own that depends on the number of images")
    return sizes.merged(documents), first
