"""What is left to do after a chunk of columns (roots are joined) and after the last (blocks and weight gradients)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.curvature import roots
from jaxprune.curvature.rows import Rows
from jaxprune.mesh import Placement, each_shard
from jaxprune.network import Network
from jaxprune.sites import Site, Survey, survey
from jaxprune.types import Batch


@partial(jax.jit, static_argnames="placement")
@jax.default_matmul_precision("highest")
def joined(one: list[Any], other: list[Any], *, placement: Placement | None = None) -> list[Any]:
    """The roots of the columns of both; None for a leaf without."""

    def of_part(_: Any, __: Any, own: Any) -> tuple[Any, Any]:
        one, other = own
        return (), jax.tree.map(roots.joined, one, other)

    return each_shard(of_part, placement, (), (), (one, other))[1]


@partial(jax.jit, static_argnames=("blocks", "units", "placement"))
@jax.default_matmul_precision("highest")
def of_roots(
    ready: Rows, triangles: Any, *, blocks: str | int, units: tuple[int, ...], placement: Placement | None = None
) -> Any:
    """The dense blocks of a leaf from the roots of all columns: a program that leaves of equal layout share."""

    def of_part(_: Any, __: Any, own: Any) -> tuple[Any, Any]:
        ready, triangles = own
        return roots.dense(ready, triangles, blocks, units), ()

    return each_shard(of_part, placement, (), (), (ready, triangles))[0]


@partial(jax.jit, static_argnames=("paths", "placement"))
@jax.default_matmul_precision("highest")
def weight_gradients(
    network: Network,
    batch: Batch,
    values: dict[int, Any],
    cotangents: list[Any],
    *,
    paths: tuple[str, ...],
    placement: Placement | None = None,
) -> list[Any]:
    """The gradients by the leaves of these names, from cotangents of their z, which may be wider than z."""

    def of_part(network: Network, batch: Batch, own: Any) -> tuple[Any, Any]:
        values, cotangents = own
        return _weight_gradients(network, batch, values, cotangents, paths), ()

    return each_shard(of_part, placement, network, batch, (values, cotangents))[0]


def _weight_gradients(
    network: Network, batch: Batch, values: dict[int, Any], cotangents: list[Any], paths: tuple[str, ...]
) -> list[Any]:
    found = survey(network, batch["image"])
    sites = [found.sites[path] for path in paths]
    return [_weight_gradient(found, site, values, each) for site, each in zip(sites, cotangents, strict=True)]


def _weight_gradient(found: Survey, site: Site, values: dict[int, Any], cotangent: Any) -> Any:
    leaf, narrow = found.program.avals[site.leaf], found.program.avals[site.output].dtype
    like = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    transposed = jax.linear_transpose(site.contribution(found.program, values), like)
    if narrow == cotangent.dtype:
        return transposed(cotangent)[0]
    # In half precision what is small would be zero.
    size = jnp.max(jnp.abs(cotangent))
    size = jnp.where(size > 0, size, 1)
    return size * transposed((cotangent / size).astype(narrow))[0]
