"""Latency: seconds of one warm call, and of several networks that take turns.

A time belongs to one machine, one batch size and one moment; ratios travel better.  Everything is compiled before the
clock starts, and the clock stops when the outputs are there (JAX returns before they are).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import tree
from jaxprune.network import Network


@dataclass(frozen=True)
class Latency:
    """How long a network takes for one batch, once it is warm.

    Attributes:
      seconds: the median of the calls.
      low: their lower quartile, in seconds.
      high: their upper quartile, in seconds.
      examples: the batch size.
      calls: how many were timed.
      compile_seconds: of tracing (where that is new) and compiling, before the first call.
    """

    seconds: float
    low: float
    high: float
    examples: int
    calls: int
    compile_seconds: float

    def __str__(self) -> str:
        """Writes the median, the quartiles, and what they are of."""
        return (
            f"{_milliseconds(self.seconds)} for {self.examples} images (quartiles {_milliseconds(self.low)} to "
            f"{_milliseconds(self.high)}, {self.calls} calls; compiled in {self.compile_seconds:.3g} s)"
        )


@dataclass(frozen=True)
class Ratio:
    """Time in units of another network's time: the median over rounds, with the quartiles.

    Attributes:
      median: below 1: faster.
      low: the lower quartile.
      high: the upper quartile.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Latencies of several networks that took turns.

    Attributes:
      latencies: by name.
      ratios: by name; the time of each round over that of the first network in the same round.
    """

    latencies: Mapping[str, Latency]
    ratios: Mapping[str, Ratio]

    def __str__(self) -> str:
        """Writes a line for every network."""
        lines = [
            f"{name}: {ratio.median:.3f} (quartiles {ratio.low:.3f} to {ratio.high:.3f}) of the time of "
            f"{next(iter(self.ratios))}; {self.latencies[name]}"
            for name, ratio in self.ratios.items()
        ]
        return "\n".join(lines)


def latency(network: Network, images: Any, *, repeats: int = 20, warmup: int = 3) -> Latency:
    """Measures the seconds of one call: the median, and the quartiles, of ``repeats`` warm calls.

    The network is compiled once, ahead of time, with its arrays as arguments; images and weights lie on the device
    before the clock starts.

    Args:
      network: with arrays as leaves.
      images: [b, h, w, c]; the time is that of the whole batch.
      repeats: calls that are timed.
      warmup: calls before these, which are not.

    Returns:
      A ``Latency``.

    Raises:
      ValueError: no images, ``repeats`` below 1, ``warmup`` below 0, or leaves that are shapes only.

    >>> net = Network(lambda params, state, images: images @ params["w"], {"w": jnp.ones((3, 2))})
    >>> measured = latency(net, jnp.ones((8, 3)), repeats=5)
    >>> measured.examples, measured.calls, measured.low <= measured.seconds <= measured.high
    (8, 5, True)
    """
    _check_calls("repeats", repeats, warmup)
    return _in_turns({"network": network}, images, repeats, warmup).latencies["network"]


def compare(networks: Mapping[str, Network], images: Any, *, rounds: int = 20, warmup: int = 3) -> Comparison:
    """Measures several networks in turns, so that what else the machine does meets all of them alike.

    Every round times one call of each network; every second round goes backwards, so that none always follows the same
    one and a slow drift cancels.  Ratios are taken within a round, and then their median.

    Args:
      networks: by name; the first is what the others are compared with.
      images: [b, h, w, c], the same for all.
      rounds: calls of each network that are timed.
      warmup: rounds before these, which are not.

    Returns:
      A ``Comparison``.

    Raises:
      ValueError: as ``latency``, or no networks.

    >>> net = Network(lambda params, state, images: images @ params["w"], {"w": jnp.ones((3, 2))})
    >>> compare({"dense": net, "pruned": net}, jnp.ones((8, 3)), rounds=5).ratios["dense"]
    Ratio(median=1.0, low=1.0, high=1.0)
    """
    _check_calls("rounds", rounds, warmup)
    return _in_turns(networks, images, rounds, warmup)


def _in_turns(networks: Mapping[str, Network], images: Any, rounds: int, warmup: int) -> Comparison:
    _check(networks, images)
    images = jnp.asarray(images)
    calls, compiled = {}, {}
    for name, network in networks.items():
        calls[name], compiled[name] = _compiled(network, images)
    times: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(warmup + rounds):
        for name in reversed(calls) if turn % 2 else calls:
            times[name].append(_seconds(calls[name]))
    warm = {name: np.array(seconds[warmup:]) for name, seconds in times.items()}
    first = next(iter(warm.values()))
    latencies = {
        name: Latency(*_summary(seconds), len(images), rounds, compiled[name]) for name, seconds in warm.items()
    }
    return Comparison(latencies, {name: Ratio(*_summary(seconds / first)) for name, seconds in warm.items()})


def _check_calls(name: str, count: int, warmup: int) -> None:
    if count < 1:
        raise ValueError(f"{name}: expected 1 or more timed calls, but got {count}. 20 give useful quartiles.")
    if warmup < 0:
        raise ValueError(f"warmup: expected 0 or more calls that are not timed, but got {warmup}. 3 are usual.")


def _check(networks: Mapping[str, Network], images: Any) -> None:
    if not networks:
        raise ValueError('networks: expected one or more by name, but got none. Pass {"dense": ..., "pruned": ...}.')
    if np.ndim(images) < 2 or len(images) == 0:
        raise ValueError(
            f"images: expected a batch [b, h, w, c] of one or more, but got the shape {np.shape(images)}. A single "
            "image is a batch of 1: images[None]."
        )
    for label, network in networks.items():
        for name, leaf in tree.by_name((network.params, network.state)).items():
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise ValueError(
                    f"networks: expected arrays to compute with, but in {label!r} the leaf {name} is a shape only. "
                    "Initialise the network; random weights take as long as trained ones."
                )


@jax.jit
def _outputs(network: Network, images: Any) -> Any:
    return network(images)


def _compiled(network: Network, images: Any) -> tuple[Callable[[], Any], float]:
    # Arrays that lie on the host would be moved in every call.
    network = jax.tree.map(jnp.asarray, network)
    start = time.perf_counter()
    program = _outputs.lower(network, images).compile()
    return lambda: program(network, images), time.perf_counter() - start


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _summary(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    low, median, high = np.percentile(values, [25, 50, 75])
    return float(median), float(low), float(high)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
