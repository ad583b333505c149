"""How the benchmark measures, and the table it prints."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

# Seconds before each measurement: the threads of JAX and of PyTorch spin for a while before they sleep.
REST = 0.02
# Relative error up to which two float32 results count as the same quantity.  In float64 ours and PyTorch's agree to
# 4e-15; in float32 some of millions of ReLU inputs round to the other side of zero, and a leaf of either is up to 6e-3
# away from float64.
SAME = 2e-2
# A round that took this many times the fastest was disturbed.  No number is dropped, but where a third of the rounds or
# more were, there is no verdict: one stalled gradient alone would make a product look cheap.
DISTURBED = 3.0
HEADER = f"{'quantity':66} {'measured':>12} {'in gradients':>24} {'first call':>10}  {'asked':22} met?\n"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      quantity: what was measured.
      values: one number for each round, in ``unit``.
      unit: "s", "MB", "times", or nothing for counts.
      gradients: for each round, the seconds over those of one gradient timed just before.
      first: the seconds of the first call, compilation included.
      at_most: a bound on the median of ``gradients``, or of ``values`` where there are no gradients.
      at_least: likewise, from below.
      note: what else there is to know.
      missing: why it was not measured; empty if it was.
      device: where; the process that measures fills it in.
    """

    quantity: str
    values: tuple[float, ...] = ()
    unit: str = "s"
    gradients: tuple[float, ...] = ()
    first: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""
    missing: str = ""
    device: str = ""

    @property
    def met(self) -> bool | None:
        """Says whether the median keeps to the bound; None without a bound, a measurement or enough calm rounds."""
        if self.missing or (self.at_most is None and self.at_least is None) or self.undecided:
            return None
        median = statistics.median(self.gradients or self.values)
        return (self.at_most is None or median <= self.at_most) and (self.at_least is None or median >= self.at_least)

    @property
    def disturbed(self) -> int:
        """Counts the rounds in which the work, or the gradient beside it, took far longer than in another round."""
        units = [value / ratio for value, ratio in zip(self.values, self.gradients, strict=False)]
        series = [numbers for numbers in (self.values, units) if numbers and min(numbers) > 0]
        slow = {i for numbers in series for i, number in enumerate(numbers) if number > DISTURBED * min(numbers)}
        return len(slow)

    @property
    def undecided(self) -> bool:
        """Says whether so many rounds were disturbed that their median means nothing."""
        return 3 * self.disturbed >= len(self.values) and self.disturbed > 0

    def line(self) -> str:
        """Writes the row as a line under ``HEADER``."""
        # What is not measured has no gradients, but a bound on seconds was on them.
        unit = "gradients" if self.gradients or (self.missing and self.unit == "s") else self.unit
        asked = f"at most {self.at_most:g} {unit}" if self.at_most is not None else ""
        asked = f"at least {self.at_least:g} {unit}" if self.at_least is not None else asked
        first = "" if self.first is None or self.missing else f"{self.first:.1f} s"
        met = {None: "", True: "yes", False: "NO"}[self.met]
        met = "not measured" if self.missing else "disturbed" if self.undecided else met
        measured = "-" if self.missing else _number(statistics.median(self.values), self.unit)
        return f"{self.quantity:66} {measured:>12} {self._spread():>24} {first:>10}  {asked:22} {met}".rstrip() + "\n"

    def remark(self) -> str:
        """Says under the table what the line has no room for; empty if there is nothing to say."""
        disturbed = f"{self.disturbed} of {len(self.values)} rounds were disturbed" if self.disturbed else ""
        said = "; ".join(part for part in (disturbed, self.note) if part)
        text = f"not measured: {self.missing}" if self.missing else said
        return f"  {self.quantity}: {text}\n" if text else ""

    def _spread(self) -> str:
        if self.missing or not self.gradients:
            return ""
        return f"{statistics.median(self.gradients):.3g} ({min(self.gradients):.3g} to {max(self.gradients):.3g})"


@dataclass
class Timing:
    """What was timed of one piece of work: the first call, then one number for each round."""

    first: float = 0.0
    result: Any = None
    missing: str = ""
    seconds: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)

    def row(self, quantity: str, **fields: Any) -> Row:
        """Makes the row of this work."""
        if self.missing:
            return Row(quantity, missing=self.missing, **fields)
        return Row(quantity, tuple(self.seconds), gradients=tuple(self.gradients), **{"first": self.first, **fields})

    def over(self, other: "Timing", quantity: str, factor: float = 1.0, **fields: Any) -> Row:
        """Makes the row of ``factor`` times these seconds over those of the other, round by round.

        On a machine that others use as well, rounds are disturbed; the note compares the fastest round of each.
        """
        missing = self.missing or other.missing
        if missing:
            return Row(quantity, unit="times", missing=missing, **fields)
        ratios = tuple(factor * a / b for a, b in zip(self.seconds, other.seconds, strict=True))
        undisturbed = f"{factor * min(self.seconds) / min(other.seconds):.3g} by the fastest rounds"
        note = "; ".join(part for part in (undisturbed, fields.pop("note", "")) if part)
        return Row(quantity, ratios, "times", note=note, **fields)


def timed(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    """Returns the seconds that a call took, and its result."""
    time.sleep(REST)
    start = clock()
    result = jax.block_until_ready(work())
    return clock() - start, result


def measure(
    gradient: Callable[[], Any],
    works: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times pieces of work side by side: in every round each of them, right after one gradient.

    The first call of each, which compiles, is kept apart.  A piece whose first call fails is not measured, and its
    timing says why; the others are.
    """
    timed(gradient, clock)
    timings = {name: _first(work, clock) for name, work in works.items()}
    for _ in range(rounds):
        for name, timing in timings.items():
            if timing.missing:
                continue
            unit, _ = timed(gradient, clock)
            seconds, _ = timed(works[name], clock)
            timing.seconds.append(seconds)
            timing.gradients.append(seconds / unit)
    return timings


def fastest(timings: Iterable[Timing]) -> Timing:
    """Returns the timing of the lowest median; one that says why, if none was measured."""
    timings = list(timings)
    measured = [timing for timing in timings if not timing.missing]
    return min(measured, key=lambda timing: statistics.median(timing.seconds)) if measured else timings[0]


def difference(left: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    """Computes the largest relative error of a leaf, ``||a - b|| / ||b||``, over leaves of equal names.

    A leaf that is zero but for rounding (the bias of an attention's keys) counts as a thousandth of the whole.
    """
    if left.keys() != right.keys():
        raise ValueError(f"expected the same leaves, but only one side has {sorted(left.keys() ^ right.keys())}.")
    errors = {name: _norm(np.subtract(left[name], right[name], dtype=np.float64)) for name in left}
    sizes = {name: _norm(right[name]) for name in left}
    floor = max(1e-3 * sum(size**2 for size in sizes.values()) ** 0.5, float(np.finfo(np.float32).tiny))
    return max(error / max(sizes[name], floor) for name, error in errors.items())


def reason(error: BaseException) -> str:
    """Writes an error as one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def _first(work: Callable[[], Any], clock: Callable[[], float]) -> Timing:
    # The benchmark reports what fails beside what does not: the reason stands in the table and in the file.
    try:
        return Timing(*timed(work, clock))
    except Exception as error:
        return Timing(missing=reason(error))


def _norm(leaf: Any) -> float:
    return float(np.linalg.norm(np.asarray(leaf, np.float64)))


def _number(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if value >= 1000 or (not unit and float(value).is_integer()) else f"{value:.3g}"
    return f"{number} {unit}".rstrip()
