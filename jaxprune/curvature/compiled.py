"""Programs compiled without being run, to read what they will take."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.sites.operations import repeated


@dataclass(frozen=True)
class Compiled:
    """What a compiled program takes.

    Attributes:
      operations: floating-point operations, as the compiler counts them, and loops as often as they turn.
      bytes: temporaries and results.
      results: the part of them that are results.
    """

    operations: float
    bytes: int
    results: int = 0


def compile_only(program: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Compiled:
    """Compiles a jitted program for the shapes of its arguments; calling it afterwards does not compile again.

    Remembered by shapes, since even to find out that nothing is new JAX traces the program.
    """
    leaves, structure = jax.tree.flatten(arguments)
    shapes = tuple(map(shape_of, leaves))
    config: Any = jax.config
    return _compiled(program, structure, shapes, tuple(sorted(options.items())), config.jax_enable_x64)


def shape_of(leaf: Any) -> tuple[Any, ...]:
    """What of an array decides a program: shape, type, and where it lies."""
    # Where it lies counts only if somebody said so: arrays on the default device are free to move.
    sharding = leaf.sharding if getattr(leaf, "committed", False) else None
    return tuple(jnp.shape(leaf)), jnp.result_type(leaf), getattr(leaf, "weak_type", False), sharding


def struct_of(shape: tuple[Any, ...]) -> jax.ShapeDtypeStruct:
    """An array of which only that is known, see ``shape_of``."""
    extents, dtype, weak, sharding = shape
    return jax.ShapeDtypeStruct(extents, dtype, weak_type=weak, sharding=sharding)


@lru_cache(maxsize=256)
def _compiled(program: Any, structure: Any, shapes: Any, options: Any, float64: bool) -> Compiled:
    leaves = [struct_of(shape) for shape in shapes]
    traced = program.trace(*jax.tree.unflatten(structure, leaves), **dict(options))
    compiled = traced.lower().compile()
    memory = compiled.memory_analysis()
    counted = (compiled.cost_analysis() or {}).get("flops", 0.0)
    # The compiler counts the body of a loop once.
    results = memory.output_size_in_bytes
    return Compiled(counted + repeated(traced.jaxpr), memory.temp_size_in_bytes + results, results)
