"""Energy and carbon: estimated from measured time and stated numbers, and what pruning saves of them.

An estimate is a time in other units.  Two estimates with the same watts and the same grid differ by the share by which
their times differ, and nothing else: "83 % less carbon" then says "83 % less time".  What was read from counters comes
from ``measured``.
"""

import math
from dataclasses import dataclass

from jaxprune import check

_ESTIMATED = "estimated: measured time x stated watts x stated grid intensity"
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Energy:
    """What something took: ``kwh = seconds watts devices overhead / 3.6e6``, ``grams = kwh grams_per_kwh``.

    Attributes:
      seconds: how long it took.
      watts: the mean power of one device.
      devices: how many of them.
      overhead: of the data centre (its PUE): energy that enters it over energy that reaches the devices.
      kwh: the energy of all devices, with overhead.
      grams_per_kwh: the carbon intensity of the grid, grams of CO2 equivalents.
      grams: of CO2 equivalents.
      estimate: whether the watts were stated; else they were measured.
      how: where the numbers come from, in words.
    """

    seconds: float
    watts: float
    devices: int
    overhead: float
    kwh: float
    grams_per_kwh: float
    grams: float
    estimate: bool
    how: str

    def __str__(self) -> str:
        """Writes energy, carbon and time, and where the numbers come from."""
        return (
            f"{self.kwh:.3g} kWh, {self.grams:.3g} g CO2e in {self.seconds:.4g} s ({self.how}; {self.watts:.4g} W x "
            f"{self.devices}, overhead {self.overhead:.3g}, {self.grams_per_kwh:.4g} g/kWh)"
        )


@dataclass(frozen=True)
class Saving:
    """What pruning saves afterwards, and what finding out what to prune took.

    Attributes:
      before: of the dense network.
      after: of the pruned one, for the same work.
      seconds: the share of the time that is saved, ``1 - after / before``; negative where it takes more.
      kwh: the share of the energy.
      grams: the share of the carbon.
      search: what pruning took (training, scoring, the search); None: not stated.
      examples: how many images ``before`` and ``after`` are of; None: not stated.
      search_examples: how many images the dense network could have evaluated with the energy of the search.
      break_even_kwh: after how many images the search has paid for itself in energy; None: see ``why``.
      break_even_grams: after how many images it has in carbon: another number where the search ran on another grid.
      why: why there is no break-even; "" where there is one.
    """

    before: Energy
    after: Energy
    seconds: float
    kwh: float
    grams: float
    search: Energy | None
    examples: int | None
    search_examples: float | None
    break_even_kwh: int | None
    break_even_grams: int | None
    why: str

    def __str__(self) -> str:
        """Writes the shares, the cost of the search, and the break-even; and what kind of numbers these are."""
        kind = "estimated" if self.before.estimate else "measured"
        lines = [f"saves {self.seconds:.2%} of the time, {self.kwh:.2%} of the energy, {self.grams:.2%} of the carbon"]
        if self.before.estimate and _power(self.before) == _power(self.after):
            lines.append("the same watts were stated for both: this is the share of the time, in other units")
        lines.append(f"before: {self.before}")
        lines.append(f"after: {self.after}")
        if self.search is not None:
            lines.append(f"search: {self.search}, as much energy as {self.search_examples:.4g} images before")
        pays = f"after {self.break_even_kwh} images in energy, {self.break_even_grams} in carbon"
        lines.append(f"the search pays for itself {pays} ({kind})" if not self.why else f"no break-even: {self.why}")
        return "\n".join(lines)


def estimate(seconds: float, *, watts: float, grams_per_kwh: float, devices: int = 1, overhead: float = 1.0) -> Energy:
    """Estimates energy and carbon from a measured time and stated numbers.

    ``kwh = seconds watts devices overhead / 3.6e6`` and ``grams = kwh grams_per_kwh``.  Neither number has a default:
    a device rarely draws what its data sheet says, and grids differ by a factor of twenty and more.  Say in a report
    which you took.  (The accounting code by an author of arXiv 2506.04513 takes 170 W, an RTX 3060, and 38.5 g/kWh,
    Brazil.)

    Args:
      seconds: measured, for example ``latency(network, images).seconds``.
      watts: the mean power that one device draws.
      grams_per_kwh: the carbon intensity of the grid, grams of CO2 equivalents per kWh.
      devices: how many draw that.
      overhead: of the data centre (its PUE), at least 1.

    Returns:
      An ``Energy`` that says that it is an estimate.

    Raises:
      ValueError: a number that is not finite and above 0, or an overhead below 1.

    >>> print(estimate(7200.0, watts=170.0, grams_per_kwh=38.5))
    0.34 kWh, 13.1 g CO2e in 7200 s (estimated: measured time x stated watts x stated grid intensity; 170 W x 1,
    overhead 1, 38.5 g/kWh)
    """
    numbers = {"seconds": seconds, "watts": watts, "grams_per_kwh": grams_per_kwh, "devices": devices}
    for name, value in numbers.items():
        check.positive(name, value)
    check_overhead(overhead)
    kwh = seconds * watts * devices * overhead / _JOULES_PER_KWH
    return Energy(seconds, watts, devices, overhead, kwh, grams_per_kwh, kwh * grams_per_kwh, True, _ESTIMATED)


def from_counters(seconds: float, kwh: float, grams: float, overhead: float, how: str) -> Energy:
    """Makes the record of what was read from counters; the watts follow from it."""
    watts = kwh / overhead * _JOULES_PER_KWH / seconds
    return Energy(seconds, watts, 1, overhead, kwh, grams / kwh, grams, False, how)


def check_overhead(overhead: float) -> None:
    """Checks that the overhead of a data centre is finite and at least 1."""
    check.positive("overhead", overhead)
    if overhead < 1:
        raise ValueError(
            f"overhead: expected a power usage effectiveness of 1 or more (energy that enters the building over energy "
            f"that reaches the devices), but got {overhead!r}. 1 leaves the building out."
        )


def saving(before: Energy, after: Energy, *, search: Energy | None = None, examples: int | None = None) -> Saving:
    """Compares the pruned network with the dense one, and with what pruning itself took.

    The shares are ``1 - after / before``.  With the energy ``E`` of evaluating ``examples`` images, the search has paid
    for itself after ``ceil(examples E_search / (E_before - E_after))`` images.

    Args:
      before: of the dense network.
      after: of the pruned one, for the same work on the same grid; both estimated or both measured.
      search: what pruning took in all.
      examples: how many images ``before`` and ``after`` evaluate; for ``search``.

    Returns:
      A ``Saving``; ``print`` writes all of it.

    Raises:
      ValueError: an estimate against a measurement, two grids, or ``search`` without ``examples``.

    >>> dense, pruned = (estimate(seconds, watts=100.0, grams_per_kwh=50.0) for seconds in (2.0, 0.5))
    >>> found = saving(dense, pruned, search=estimate(3600.0, watts=100.0, grams_per_kwh=50.0), examples=128)
    >>> found.grams, found.search_examples, found.break_even_kwh
    (0.75, 230400.0, 307200)
    """
    _check_alike(before, after, search, examples)
    shares = {name: 1 - getattr(after, name) / getattr(before, name) for name in ("seconds", "kwh", "grams")}
    worth = energy = carbon = None
    why = "no search was stated"
    if search is not None and examples is not None:
        worth = examples * search.kwh / before.kwh
        why = "" if after.kwh < before.kwh else "the pruned network takes no less energy than the dense one"
        if not why:
            energy = _ceil(examples * search.kwh / (before.kwh - after.kwh))
            carbon = _ceil(examples * search.grams / (before.grams - after.grams))
    return Saving(
        before,
        after,
        **shares,
        search=search,
        examples=examples,
        search_examples=worth,
        break_even_kwh=energy,
        break_even_grams=carbon,
        why=why,
    )


def _check_alike(before: Energy, after: Energy, search: Energy | None, examples: int | None) -> None:
    if before.estimate != after.estimate:
        raise ValueError(
            f"before/after: expected both estimated or both measured, but before is {before.how} and after is "
            f"{after.how}. Take both in the same way; a share of the two would mix the way with the effect."
        )
    if not math.isclose(before.grams_per_kwh, after.grams_per_kwh, rel_tol=1e-6):
        raise ValueError(
            f"before/after: expected one grid, but got {before.grams_per_kwh:.6g} and {after.grams_per_kwh:.6g} g/kWh. "
            "State the same carbon intensity for both: moving to another country is not what pruning saves."
        )
    if (search is None) != (examples is None):
        raise ValueError(
            f"search/examples: expected both or neither, but got search={search} and examples={examples}. The "
            "break-even needs to know how many images before and after evaluate."
        )
    if examples is not None:
        check.positive("examples", examples)


def _power(energy: Energy) -> float:
    return energy.watts * energy.devices * energy.overhead


def _ceil(examples: float) -> int:
    # Rounded first, so that 100 and the last bit of a float are not 101 images.
    return math.ceil(round(examples, 6))
