"""Programs compiled without being run, to read what they will take."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp


def compile_only(program: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Compiles a jitted program for the shapes of its arguments; calling it afterwards does not compile again.

    Remembered by shapes, since even to find out that nothing is new JAX traces the program.
    """
    leaves, structure = jax.tree.flatten(arguments)
    shapes = tuple(_shape(leaf) for leaf in leaves)
    config: Any = jax.config
    return _compiled(program, structure, shapes, tuple(sorted(options.items())), config.jax_enable_x64)


def operations(program: Any) -> float:
    """The floating-point operations of a compiled program, as the compiler counts them."""
    analysis = program.cost_analysis() or {}
    return float(analysis.get("flops", 0.0))


def peak_bytes(program: Any) -> int:
    """The bytes of temporaries and results of a compiled program."""
    analysis = program.memory_analysis()
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def _shape(leaf: Any) -> tuple[Any, ...]:
    # Where it lies counts only if somebody said so: arrays on the default device are free to move.
    sharding = leaf.sharding if getattr(leaf, "committed", False) else None
    return tuple(jnp.shape(leaf)), jnp.result_type(leaf), getattr(leaf, "weak_type", False), sharding


@lru_cache(maxsize=256)
def _compiled(program: Any, structure: Any, shapes: Any, options: Any, float64: bool) -> Any:
    leaves = [
        jax.ShapeDtypeStruct(shape, dtype, weak_type=weak, sharding=sharding) for shape, dtype, weak, sharding in shapes
    ]
    return program.lower(*jax.tree.unflatten(structure, leaves), **dict(options)).compile()
