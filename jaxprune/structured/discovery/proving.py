"""Proof by cutting: units that were discovered are really removed, and compared with zeros, in float64."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check
from jaxprune.groups import Group
from jaxprune.network import Network
from jaxprune.sites.program import coarsest
from jaxprune.structured.discovery.compacting import compact
from jaxprune.structured.discovery.finding import Discovered
from jaxprune.structured.equality import GAIN, difference, told
from jaxprune.structured.gates import gated
from jaxprune.structured.probes import is_float, randomised

# Images on which programs are compared, and the integers in them.
_IMAGES, _WHOLE = 2, 2
# Programs that run once: optimising them would take longer than that.
_IN_HASTE: Any = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def proven(network: Network, found: Discovered, images: Any, *, seed: int = 0) -> dict[str, str]:
    """Removes a random half of the units of all groups at once, and compares with gates, on random weights in float64.

    Where that fails, halves of the groups are cut by themselves until those are found that are wrong; what is left is
    cut together once more.  Outputs must agree within sqrt(eps) of the largest, eps that of the coarsest type that the
    program makes anything of: 1.5e-8 where everything is float64, half of its digits.

    Args:
      network: its leaves may be ``jax.ShapeDtypeStruct``: random ones take their place.
      found: what was discovered in it.
      images: [b, ...], only shape and type matter.
      seed: of weights, images and units.

    Returns:
      For every group that is offered, by name: why it is not proven, or "" where it is.
    """
    host = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(host), jax.default_matmul_precision("highest"):
        bench = _Bench(network, found, images, seed)
        reasons = {group.name: bench.wrong for group in found}
        if not bench.wrong:
            reasons |= bench.halved(found.groups)
            left = [group for group in found if not reasons[group.name]]
            if len(left) < len(found) and left and (why := bench.compared(left)):
                reasons |= {group.name: f"together with others {why}" for group in left}
    return reasons


class _Bench:
    """A network with random weights, and random images, on which cuts are tried.

    Attributes:
      wrong: why nothing can be compared; "" where it can.
    """

    def __init__(self, network: Network, found: Discovered, images: Any, seed: int) -> None:
        self._found, self._rng = found, np.random.default_rng(seed)
        self._network, self._images = _wide(network, images, seed)
        self._whole = np.zeros(0)
        self._tolerance, self.wrong = 0.0, ""
        try:
            self._tolerance = math.sqrt(
                float(
                    jnp.finfo(
                        coarsest(jax.make_jaxpr(lambda one, images: one(images))(self._network, self._images))
                    ).eps
                )
            )
            self._whole = _evaluated(self._network, self._images)
        except Exception as error:  # whatever a network raises for random numbers
            self.wrong = f"on random weights it raises {check.first_line(error)}"
        if not self.wrong and not np.isfinite(self._whole).all():
            self.wrong = "on random weights and images the outputs are not finite"

    def halved(self, groups: Sequence[Group]) -> dict[str, str]:
        """Cuts all groups, and halves of them where that is not gating."""
        why = self.compared(groups)
        if not why or len(groups) < 2:
            return {group.name: why for group in groups}
        middle = len(groups) // 2
        return self.halved(groups[:middle]) | self.halved(groups[middle:])

    def compared(self, groups: Sequence[Group]) -> str:
        """Says what is wrong with a cut of these groups; nothing where it is gating."""
        gates = {group.name: self._half(group) for group in groups}
        try:
            want = _evaluated(gated(self._network, self._found, gates), self._images)
            got = _evaluated(compact(self._network, self._found, gates), self._images)
        except Exception as error:  # whatever a program raises for smaller arrays
            return f"cut, it raises {check.first_line(error)}"
        if difference(want, self._whole) <= self._tolerance:
            return "nothing of it acts on the outputs"
        apart = difference(got, want)
        return f"cut, the outputs {told(apart)} from gated ones" if not apart <= self._tolerance else ""

    def _half(self, group: Group) -> np.ndarray:
        kept = max(group.floor, (group.size + 1) // 2)
        return np.isin(np.arange(group.size), self._rng.permutation(group.size)[:kept])


def _wide(network: Network, images: Any, seed: int) -> tuple[Network, Any]:
    """Random weights and images in float64, or in the types of the network where it takes no others."""
    shape = (min(np.shape(images)[0], _IMAGES), *np.shape(images)[1:])
    draw = np.random.default_rng((seed, 1))

    def made(leaf: Any, kind: Any) -> Any:
        if not is_float(leaf):
            return jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
        return jax.ShapeDtypeStruct(np.shape(leaf), kind)

    def with_types(wide: bool) -> tuple[Network, Any]:
        given = [np.float64 if wide else jnp.result_type(leaf) for leaf in jax.tree.leaves(network)]
        leaves = [made(leaf, kind) for leaf, kind in zip(jax.tree.leaves(network), given, strict=True)]
        kind = jnp.result_type(images)
        floating = is_float(images)
        values = draw.normal(size=shape) if floating else draw.integers(0, _WHOLE, size=shape)
        kind = np.float64 if wide and floating else kind
        return randomised(jax.tree.unflatten(jax.tree.structure(network), leaves), (seed, 0), GAIN), values.astype(kind)

    widened = with_types(True)
    try:
        jax.eval_shape(*widened)
    except Exception:  # whatever a network raises for types of its own
        return with_types(False)
    return widened


def _evaluated(network: Network, images: Any) -> np.ndarray:
    """The outputs, of a program compiled in haste."""
    compiled = jax.jit(lambda one, images: one(images)).lower(network, images).compile(_IN_HASTE)
    return np.asarray(compiled(network, images)).astype(np.float64)
