"""Whether removing units computes what gating them does: some are really cut, and the outputs compared."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.groups import Gates, Group, Specification
from jaxprune.network import Network
from jaxprune.sites.program import coarsest
from jaxprune.structured.gates import gated, ones, outputs
from jaxprune.structured.probes import is_float, randomised
from jaxprune.structured.removal import CannotRemoveError, check_members, smaller, stages

# Kernels that keep the size of what passes a ReLU, so that a difference anywhere still shows at the end.
GAIN = math.sqrt(2)
# Not with the faster products of some devices, which round float32 to 8 or 10 bits.
_PRECISELY = partial(jax.default_matmul_precision, "highest")


class _Finding(NamedTuple):
    """What came of a comparison: the error of the smaller network, or how far apart outputs are (nan: unknown)."""

    error: str = ""
    apart: float = 0.0

    def is_wrong(self, tolerance: float) -> bool:
        return bool(self.error) or self.apart > tolerance


def check_removal(
    network: Network, specification: Specification, images: Any, groups: Sequence[Group] | None = None, *, seed: int = 0
) -> None:
    """Removes random halves of the units, and layers, and compares outputs with those of the gated network.

    All groups are cut together; only where something is wrong each is cut by itself, to name it.  Every layer is gone
    once, as many at a time as the floors permit.  This is done with the given weights and with random ones, since a
    statistic over the units may not matter now and matter after training (a last layer of zeros, a LayerScale of
    zero).

    The outputs must agree within sqrt(eps) of the largest, eps that of the coarsest type in the network's program: half
    of its digits.  Rounding takes a few, the other order of the sums over fewer units; what zeros change in a
    statistic over half of the units shows in the first or second.  In float32 that is 3.5e-4, in float64 1.5e-8, in
    bfloat16 0.09.  Weights of half precision are made float32 where the network takes them so, and products of float32
    are computed as such also where a device has faster ones.

    The cost are a few forward passes of the images: one of the gated and one of the smaller network for each kind of
    weights, twice with layers (more often where a floor lets fewer than half of a stage go).  One program is compiled
    for the gated network, and one (with layers two or more) for smaller ones.

    Args:
      network: what is gated.  Leaves that are ``jax.ShapeDtypeStruct`` become random ones.
      specification: its shape, which says how it is cut.
      images: [b, ...].
      groups: those of the specification to try.  None: all.
      seed: of units and weights.

    Raises:
      ValueError: the specification makes another network of these parameters; a smaller network cannot be evaluated,
        or computes something else than the gated one: the message names the groups, and why that may be.
    """
    groups = tuple(specification.groups() if groups is None else groups)
    check_members(specification.groups(), network.params, network.state)
    draws = [randomised(network, (seed, 0), GAIN)]
    if all(hasattr(leaf, "__array__") for leaf in jax.tree.leaves((network.params, network.state))):
        draws.append(network)
    draws, images = widened(draws, images)
    tolerance = rounding(gated(draws[0], specification.groups(), {}), images)
    _check_function(specification, draws, images, tolerance)
    rng = np.random.default_rng(seed)
    found = [
        _compare(specification, draw, _cuts(groups, layers, rng), images) for layers in _turns(groups) for draw in draws
    ]
    if any(one.is_wrong(tolerance) for one in found):
        _blame(specification, draws, groups, images, found, tolerance)
    if all(math.isnan(one.apart) for one in found):
        raise ValueError(
            "network: its outputs are not finite, with the given weights and with random ones, so that nothing can be "
            "compared. Pass images that it was made for."
        )


def widened(draws: Sequence[Network], images: Any) -> tuple[Sequence[Network], Any]:
    """Networks and images in float32 where they are in half precision, unless the network wants them so."""

    def widen(leaf: Any) -> Any:
        kind = jnp.result_type(leaf)
        narrow = is_float(leaf) and jnp.finfo(kind).eps > jnp.finfo(jnp.float32).eps
        return np.asarray(leaf).astype(np.float32) if narrow else leaf

    wide = jax.tree.map(widen, (draws, images))
    try:
        jax.eval_shape(wide[0][0], wide[1])
    except Exception:  # whatever a network raises for two types in one convolution
        return draws, images
    return wide


def _compare(specification: Specification, network: Network, gates: Gates, images: Any) -> _Finding:
    want = evaluated(gated(network, specification.groups(), gates), images)
    try:
        with _PRECISELY():
            left = smaller(specification, network.params, network.state, gates, images)
    except CannotRemoveError as error:
        return _Finding(error=error.said)
    return _Finding(apart=difference(evaluated(left, images), want))


def evaluated(network: Network, images: Any) -> np.ndarray:
    """The outputs, computed as precisely as their types allow."""
    with _PRECISELY():
        return np.asarray(outputs(network, images)).astype(np.float64)


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference as a share of the largest output; nan where no output is finite."""
    finite = np.isfinite(want)
    if not np.array_equal(finite, np.isfinite(got)):  # of another shape neither
        return math.inf
    if not finite.any():
        return math.nan
    difference, scale = np.abs(got - want)[finite].max(), np.abs(want[finite]).max()
    return 0.0 if difference == 0 else float(difference / scale) if scale > 0 else math.inf


def rounding(network: Network, images: Any) -> float:
    """sqrt(eps) of the coarsest type that the program of a network makes anything of."""
    with _PRECISELY():
        return math.sqrt(float(jnp.finfo(coarsest(outputs.trace(network, images).jaxpr)).eps))


def _check_function(specification: Specification, draws: Sequence[Network], images: Any, tolerance: float) -> None:
    """Checks that the shape makes the very network that was given, rather than what it is a part of."""
    for draw in draws:
        made = specification.network(draw.params, draw.state)
        if made.apply == draw.apply:
            return
        apart = difference(evaluated(made, images), evaluated(draw, images))
        if apart > tolerance:
            raise ValueError(
                f"specification: expected the shape of the network, but with the same parameters it makes another one: "
                f"its outputs {told(apart)}. Pass the network as specification.network(params, "
                "state) makes it, before a normalisation, a head or gates were put on it."
            )


def _turns(groups: Sequence[Group]) -> list[set[str]]:
    """Sets of layers that may go together: each goes once, and stays once unless it is in no turn at all."""
    spare = {stage: len(layers) - max(layer.floor for layer in layers) for stage, layers in stages(groups).items()}
    going = {stage: layers for stage, layers in stages(groups).items() if spare[stage] > 0}
    count = max((max(2, math.ceil(len(layers) / spare[stage])) for stage, layers in going.items()), default=1)
    return [{one.name for layers in going.values() for one in layers[turn::count]} for turn in range(count)]


def _cuts(groups: Sequence[Group], layers: set[str], rng: np.random.Generator) -> Gates:
    """Gates without these layers, and without a random half of the units of every group, as far as the floors permit.

    Their numbers are always the same, so that the smaller networks are of one shape.
    """
    gates = ones(groups)
    for group in groups:
        if group.is_layer:
            gates[group.name][0] = group.name not in layers
        else:
            kept = max(group.floor, (group.size + 1) // 2)
            gates[group.name] = np.isin(np.arange(group.size), rng.permutation(group.size)[:kept])
    return gates


def _blame(
    specification: Specification,
    draws: Sequence[Network],
    groups: Sequence[Group],
    images: Any,
    found: Sequence[_Finding],
    tolerance: float,
) -> None:
    """Cuts every group by itself, and raises an error that names those that are wrong."""
    alone = {}
    for group in groups:
        # Of a layer, whether it may go at all was asked with its stage.
        layers = {group.name} & set().union(*_turns(groups))
        gates = _cuts([group], layers, np.random.default_rng(0))
        if not all(np.all(value) for value in gates.values()):
            gates = {**ones(specification.groups()), **gates}
            alone[group.name] = max((_compare(specification, draw, gates, images) for draw in draws), key=_order)
    wrong = {name: one for name, one in alone.items() if one.is_wrong(tolerance)}
    if not wrong:  # only together
        wrong = dict.fromkeys(alone, max(found, key=_order))
    raising = {name: one.error for name, one in wrong.items() if one.error}
    if raising:
        raise CannotRemoveError(list(raising), next(iter(raising.values())))
    named = ", ".join(map(repr, list(wrong)[:10])) + (", ..." if len(wrong) > 10 else "")
    raise ValueError(
        f"groups: to remove units of {named} is not to gate them off: when they are removed, the outputs "
        f"{told(max(one.apart for one in wrong.values()))}, and rounding makes less than {tolerance:.2g}. The likely "
        "reason is a statistic over the units (LayerNorm, RMSNorm, GRN, a softmax, a mean or maximum over channels), "
        "in which units that are gated off still count, or their number, written into the function. Declare only "
        "units that no statistic is over (BatchNorm's is of each unit alone). Whether the members are right "
        "jp.structured.verify tells."
    )


def told(apart: float) -> str:
    """Says how far outputs are apart, for messages."""
    if math.isinf(apart):
        return "have another shape, or other ones of them are finite"
    return f"differ by {apart:.2g} of the largest"


def _order(finding: _Finding) -> tuple[bool, float]:
    return bool(finding.error), -1.0 if math.isnan(finding.apart) else finding.apart
