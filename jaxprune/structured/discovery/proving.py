"""Proof by cutting: what was discovered is really removed, and compared with zeros, in float64."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, tree
from jaxprune.groups import Group
from jaxprune.network import Network
from jaxprune.sites.program import coarsest
from jaxprune.structured.discovery.compacting import Traced
from jaxprune.structured.discovery.finding import Discovered
from jaxprune.structured.discovery.masking import Masked
from jaxprune.structured.equality import GAIN, difference, told
from jaxprune.structured.gates import gated
from jaxprune.structured.probes import is_float, randomised
from jaxprune.structured.removal import cut

# Images on which programs are compared, more of them in training, whose statistics are over them, and the integers in
# them.
_IMAGES, _TRAINED, _WHOLE = 2, 4, 2
# Programs that run once: optimising them would take longer than that.
_IN_HASTE: Any = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

# What nothing but the analysis itself says.
UNCHECKED = "its counts are not checked: the function has its widths written into it"


def proven(
    network: Network, found: Discovered, images: Any, keys: Mapping[str, Any], *, seed: int = 0
) -> dict[str, str]:
    """Cuts groups and layers on random weights in float64, and compares with what they should be.

    A random half of the units of all groups at once is compared with gates, and so is the network without any residual
    branch.  A random half of the units of all groups that are ``recomputed`` is compared with the network's own
    function of the smaller leaves, where it takes such.  Where it takes none, it is compared with the whole program in
    which what is gone is left out of every sum: that may find a fault, but takes the counts of the analysis itself, so
    it proves nothing of these, and the reason is ``UNCHECKED``.  Where a comparison fails, halves of the groups are cut
    by themselves until those are found that are wrong; what is left is cut together once more.

    Outputs must agree within sqrt(eps) of the largest, eps that of the coarsest type that the program makes anything
    of: 1.5e-8 where everything is float64, half of its digits.  So must the outputs of ``train_apply``, and every leaf
    of the state that it returns, where there is one.

    Args:
      network: its leaves may be ``jax.ShapeDtypeStruct``: random ones take their place.
      found: what was discovered in it.
      images: [b, ...], only shape and type matter.
      keys: of the random streams of ``train_apply``, by name.
      seed: of weights, images and units.

    Returns:
      For every group and layer that is offered, by name: why it is not proven, or "" where it is.
    """
    host = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(host), jax.default_matmul_precision("highest"):
        bench = _Bench(network, found, images, keys, seed)
        reasons = {one.name: bench.wrong for one in (*found.groups, *found.layers)}
        recomputed = {True: [], False: []} if bench.wrong else bench.sorted([one for one in found if one.recomputed])
        for kind in ([one for one in found if not one.recomputed], *recomputed.values(), list(found.layers)):
            if not kind or bench.wrong:
                continue
            reasons |= bench.halved(kind)
            left = [group for group in kind if reasons[group.name] in ("", UNCHECKED)]
            if len(left) < len(kind) and left and (why := bench.compared(left)) not in ("", UNCHECKED):
                reasons |= {group.name: f"together with others {why}" for group in left}
    return reasons


class _Bench:
    """A network with random weights, and random images, on which cuts are tried.

    Attributes:
      wrong: why nothing can be compared; "" where it can.
    """

    def __init__(self, network: Network, found: Discovered, images: Any, keys: Mapping[str, Any], seed: int) -> None:
        self._found, self._rng, self._keys = found, np.random.default_rng(seed), dict(keys)
        self._gateable = [*(group for group in found if not group.recomputed), *found.layers]
        self._network, self._images = _wide(network, images, seed)
        self._more = _as_many(self._network, self._images, self._keys, seed)
        self._tolerance, self.wrong = 0.0, ""
        try:
            program = jax.make_jaxpr(_run)(self._network, self._images, self._more, self._keys)
            self._tolerance = math.sqrt(float(jnp.finfo(coarsest(program)).eps))
            self._whole = self._seen(self._network)["the outputs"]
        except Exception as error:  # whatever a network raises for random numbers
            self.wrong = f"on random weights it raises {check.first_line(error)}"
        if not self.wrong and not np.isfinite(self._whole).all():
            self.wrong = "on random weights and images the outputs are not finite"

    def sorted(self, groups: Sequence[Group]) -> dict[bool, list[Group]]:
        """Groups by whether the function itself takes what is left without their units."""
        kinds: dict[bool, list[Group]] = {True: [], False: []}
        for group in groups:
            try:
                runs = self._runs(self._cut({group.name: self._half(group)})[1])
            except Exception:  # whatever a program raises for smaller arrays: comparing tells it
                runs = False
            kinds[runs].append(group)
        return kinds

    def halved(self, groups: Sequence[Group]) -> dict[str, str]:
        """Cuts all groups, and halves of them where that is wrong."""
        why = self.compared(groups)
        if why in ("", UNCHECKED) or len(groups) < 2:
            return {group.name: why for group in groups}
        middle = len(groups) // 2
        return self.halved(groups[:middle]) | self.halved(groups[middle:])

    def compared(self, groups: Sequence[Group]) -> str:
        """Says what is wrong with a cut of these groups; nothing where it is what it should be."""
        gates, unchecked = {group.name: self._half(group) for group in groups}, ""
        try:
            shape, small = self._cut(gates)
            if any(group.recomputed for group in groups):
                unchecked = "" if self._runs(small) else UNCHECKED
                want, like = self._recomputed(shape.without(gates), small, partial(_cut_state, shape, gates))
            else:
                want = self._seen(gated(self._network, self._gateable, gates), partial(_cut_state, shape, gates))
                like = "gated ones"
            got = self._seen(small)
        except Exception as error:  # whatever a program raises for smaller arrays
            return f"cut, it raises {check.first_line(error)}"
        if difference(want["the outputs"], self._whole) <= self._tolerance:
            return "nothing of it acts on the outputs"
        for what, one in want.items():
            # In training, random statistics may overflow.
            if np.isfinite(one).any() and not (apart := difference(got[what], one)) <= self._tolerance:
                return f"cut, {what} {told(apart)} from {like}"
        return unchecked

    def _cut(self, gates: Mapping[str, np.ndarray]) -> tuple[Traced, Network]:
        """The specification of the whole network, and the one that is left."""
        shape = Traced.of(self._network, self._found, layers=True)
        left, params, state = cut(shape, self._network.params, self._network.state, gates)
        return shape, left.network(params, state)

    def _runs(self, small: Network) -> bool:
        """Whether the network's own function takes the leaves that are left."""
        own = self._network.replace(params=small.params, state=small.state)
        try:
            jax.eval_shape(_run, own, self._images, self._more, self._keys)
        except Exception:  # whatever a module of fixed widths raises
            return False
        return True

    def _recomputed(self, left: Traced, small: Network, cut_state: Any) -> tuple[dict[str, np.ndarray], str]:
        """What a network with smaller statistics should be: its own function, or the whole one with smaller sums."""
        own = self._network.replace(params=small.params, state=small.state)
        if not self._runs(small):
            train = None if own.train_apply is None else Masked(own.train_apply, left.full)
            whole = Network(Masked(own.apply, left.full), self._network.params, self._network.state, train)
            return self._seen(whole, cut_state), "those of the whole network without them in its statistics"
        return self._seen(own), "those of the function at the smaller width (is one written into it?)"

    def _seen(self, network: Network, cut_state: Any = None) -> dict[str, np.ndarray]:
        """What networks are compared by, in words: outputs in evaluation and training, and the state of a step."""
        outputs, training = _compiled(network, self._images, self._more, self._keys)
        seen = {"the outputs": _plain(outputs)}
        if training is not None:
            state = training[1] if cut_state is None else cut_state(training[1])
            seen["the outputs in training"] = _plain(training[0])
            seen |= {f"the state {name!r} of a step": _plain(leaf) for name, leaf in tree.by_name(state).items()}
        return seen

    def _half(self, group: Group) -> np.ndarray:
        if group.is_layer:
            return np.zeros(1, bool)
        kept = max(group.floor, (group.size + 1) // 2)
        return np.isin(np.arange(group.size), self._rng.permutation(group.size)[:kept])


def _cut_state(shape: Traced, gates: Mapping[str, Any], state: Any) -> Any:
    """What is left of the state of a whole network, gated or not."""
    gated_state = isinstance(state, Mapping) and set(state) == {"gates", "network"}
    return cut(shape, {}, jax.tree.map(np.asarray, state["network"] if gated_state else state), gates)[2]


def _wide(network: Network, images: Any, seed: int) -> tuple[Network, Any]:
    """Random weights and images in float64, or in the types of the network where it takes no others."""

    def made(leaf: Any, kind: Any) -> Any:
        if not is_float(leaf):
            return jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
        return jax.ShapeDtypeStruct(np.shape(leaf), kind)

    def with_types(wide: bool) -> tuple[Network, Any]:
        given = [np.float64 if wide else jnp.result_type(leaf) for leaf in jax.tree.leaves(network)]
        leaves = [made(leaf, kind) for leaf, kind in zip(jax.tree.leaves(network), given, strict=True)]
        drawn = randomised(jax.tree.unflatten(jax.tree.structure(network), leaves), (seed, 0), GAIN)
        kind = np.float64 if wide and is_float(images) else jnp.result_type(images)
        return drawn, _drawn(images, min(np.shape(images)[0], _IMAGES), kind, (seed, 1))

    widened = with_types(True)
    try:
        jax.eval_shape(*widened)
    except Exception:  # whatever a network raises for types of its own
        return with_types(False)
    return widened


def _as_many(network: Network, images: Any, keys: Mapping[str, Any], seed: int) -> Any:
    """Images of a training step: some more, so that statistics over them are no accident, where it takes as many."""
    if network.train_apply is None:
        return None
    more = _drawn(images, _TRAINED, images.dtype, (seed, 2))
    try:
        jax.eval_shape(network.train_apply, network.params, network.state, more, keys)
    except Exception:  # whatever a network raises that is made for one number of images
        return images
    return more


def _drawn(images: Any, count: int, kind: Any, seed: Sequence[int]) -> np.ndarray:
    draw, shape = np.random.default_rng(seed), (count, *np.shape(images)[1:])
    return (draw.normal(size=shape) if is_float(images) else draw.integers(0, _WHOLE, size=shape)).astype(kind)


def _run(network: Network, images: Any, more: Any, keys: Any) -> Any:
    """The outputs, and what a training step returns where there is one."""
    train = network.train_apply
    return network(images), None if train is None else train(network.params, network.state, more, keys)


_compiled = jax.jit(_run, compiler_options=_IN_HASTE)


def _plain(values: Any) -> np.ndarray:
    values = jax.random.key_data(values) if jnp.issubdtype(values.dtype, jax.dtypes.prng_key) else values
    return np.asarray(values).astype(np.float64)
