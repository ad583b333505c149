"""Everything that is known of where the parameters of a network enter, traced once and remembered."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
from jax.sharding import AbstractMesh, use_abstract_mesh

from jaxprune import check, tree
from jaxprune.network import Network
from jaxprune.sites.kernels import Site, find
from jaxprune.sites.program import Program, trace
from jaxprune.sites.proof import Proof, is_consistent, prove


@dataclass(frozen=True, eq=False, repr=False)
class Survey:
    """Where the parameters of a network enter its program.

    Attributes:
      program: of ``apply(params, state, images)``; its arguments are the leaves of these three.
      sites: the site of every leaf that enters through one linear operation, by name.
      proofs: what is proven of the network after each of these sites.
      unserved: why every other leaf has no site, by name; ``""``: the outputs do not depend on it.
      outputs: shape and type of the outputs.
      consistent: whether every derivative rule of the user's own belongs to the values (see ``Proof``), in the whole
        program as far as the outputs need it, whichever leaf it follows.
    """

    program: Program
    sites: dict[str, Site]
    proofs: dict[str, Proof]
    unserved: dict[str, str]
    outputs: jax.ShapeDtypeStruct
    consistent: bool

    def __str__(self) -> str:
        """Writes a line for every leaf: how it enters, its units, and what is proven of what follows."""
        lines = []
        for path, site in self.sites.items():
            proof = self.proofs[path]
            linear = "piecewise linear after it" if proof.piecewise_linear else "not proven piecewise linear after it"
            alone = "independent examples" if proof.examples is not None else "examples not proven independent"
            lines.append(f"{path}: {site.kind}, unit axes {self.unit_axes(path, 0)}, {linear}, {alone}")
        for path, why in self.unserved.items():
            lines.append(f"{path}: no site: {why or 'the outputs do not depend on it'}")
        if not self.consistent:
            lines.append("a derivative rule of its own has another value, or only a backward pass")
        return "\n".join(lines)

    __repr__ = __str__

    def unit_axes(self, path: str, rank: int) -> tuple[int, ...]:
        """The axes of a leaf of that rank whose indices are its units, in order; the last axis where it has no site."""
        if path in self.sites:
            return tuple(sorted(self.sites[path].unit_axes))
        return (rank - 1,) if rank else ()


def survey(network: Network, images: Any) -> Survey:
    """Traces a network once and finds where its parameters enter.

    Args:
      network: evaluated in evaluation mode.
      images: [b, h, w, c], or a ``jax.ShapeDtypeStruct``: only shape and type matter.

    Raises:
      ValueError: the outputs are not [b, c].
      TypeError: a leaf of the parameters is not a real floating-point array.

    >>> import jax.numpy as jnp
    >>> net = Network(lambda p, s, x: jax.nn.relu(x @ p["w"] + p["b"]), {"w": jnp.ones((3, 2)), "b": jnp.ones(2)})
    >>> found = survey(net, jnp.ones((5, 3)))
    >>> {path: (site.kind, found.proofs[path].piecewise_linear) for path, site in found.sites.items()}
    {'b': ('add', True), 'w': ('dense', True)}
    """
    check.real("network.params", network.params)
    leaves, structure = jax.tree.flatten((network.params, network.state, images))
    shapes = tuple((tuple(jax.numpy.shape(leaf)), jax.numpy.result_type(leaf)) for leaf in leaves)
    # Tracing writes these settings into the program: the types of its values, the precision of its products.
    config: Any = jax.config
    settings = (config.jax_enable_x64, config.jax_default_matmul_precision)
    # One program wherever it is traced: inside of a shard_map JAX would write the mesh into it.
    with use_abstract_mesh(AbstractMesh((), ())):
        return _survey(network.apply, structure, shapes, settings)


@lru_cache(maxsize=128)
def _survey(apply: Callable[..., Any], structure: Any, shapes: tuple[Any, ...], settings: tuple[Any, ...]) -> Survey:
    structs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    params, state, images = jax.tree.unflatten(structure, structs)
    outputs = jax.eval_shape(apply, params, state, images)
    check.outputs(outputs, images.shape[0])
    program = trace(apply, params, state, images)
    sites, unserved = find(program, tree.names(params), program.arguments[-1])
    proofs = dict(zip(sites, prove(program, list(sites.values())), strict=True))
    return Survey(program, sites, proofs, unserved, outputs, is_consistent(program))
