"""What is left to do with signals after the last column: the weight gradients of products, and what moments say."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.curvature import moments
from jaxprune.curvature.signals import Point, Wanted, name_of
from jaxprune.mesh import Placement, each_shard
from jaxprune.network import Network
from jaxprune.sites import Site, Survey, survey
from jaxprune.types import Batch


@partial(jax.jit, static_argnames=("wanted", "count", "placement"))
@jax.default_matmul_precision("highest")
def of_moments(
    point: Point, given: list[Any], *, wanted: Wanted, count: int, placement: Placement | None = None
) -> dict[str, list[Any]]:
    """The quantities that follow from the moments of all columns; None for other leaves."""

    def of_part(_: Any, __: Any, own: Any) -> tuple[Any, Any]:
        point, given = own
        found = {}
        for quantity in wanted.others:
            found[name_of(quantity)] = [
                moments.made(ready, quantity, each, units) if moments.serve(ready, quantity, count) else None
                for ready, each, units in zip(point.rows, given, wanted.units, strict=True)
            ]
        return found, ()

    return each_shard(of_part, placement, (), (), (point, given))[0]


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
