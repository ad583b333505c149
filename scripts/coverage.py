"""How often the intervals of ``jaxprune.stats`` hold, and how often verdicts are wrong, counted in simulations.

Every draw is a study: test examples, networks of several seeds, and what is measured of both.  Its truth is known, and
its interval holds it or does not.  ``python scripts/coverage.py`` prints the whole grid and ends with its extremes;
``--quick`` draws a twentieth as often.
"""

import argparse
import itertools
import os
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from jaxprune import stats

PART = 0.8
"""The share of an example's variance that all networks have in common: what is hard is hard for all."""
POOL = 3
"""Of re-split examples: every seed tests on one of so many parts of a pool, at random."""
SHARES, DIFFERENCES = (0.5, 0.9, 0.99), ((0.1, 0.1), (0.0, 0.03))
"""Accuracies; and the shares of examples that are gained and lost: as many, and losses alone."""
COLUMNS = 7
"""Quantities that hold at once."""
LEAST, MOST, WRONG = 0.93, 0.99, 0.03
"""What is asked for: coverage at least, and at most of continuous quantities; wrong words at most."""
KINDS = (
    "mean",
    *(f"share {share:g}" for share in SHARES),
    *(f"gained {gain:g}, lost {loss:g}" for gain, loss in DIFFERENCES),
    f"{COLUMNS} means",
    f"{COLUMNS} means, correlated",
)
CONTINUOUS = tuple(kind for kind in KINDS if "mean" in kind)
IMAGES = ("fresh", "shared", "re-split")


class Cell(NamedTuple):
    """Studies of one kind; ``spread``: standard deviation of seeds, in standard errors of a mean over examples."""

    kind: str
    images: str
    seeds: int
    count: int
    spread: float


class Study(NamedTuple):
    """What one draw measured, what is to be said of it, and the truth."""

    values: list[np.ndarray]
    examples: Any
    bounds: tuple[float, float] | None
    truth: float


def draw(cell: Cell, rng: np.random.Generator) -> Study | None:
    """Draws a study; None where seeds cannot spread so far, since shares end at 0 and 1."""
    columns = COLUMNS if cell.kind.startswith(str(COLUMNS)) else 1
    noise, examples = _noise(cell, rng, columns)
    shifts = _shifts(rng, cell, columns)
    if "mean" in cell.kind:
        size = cell.spread / np.sqrt(cell.count)
        values = [one + size * shift for one, shift in zip(noise, shifts, strict=True)]
        return Study(values if columns > 1 else [one[:, 0] for one in values], examples, None, 0.0)
    gain, loss = _shares(cell.kind)
    room = min(gain or 1.0, loss or 1.0, 1 - gain, 1 - loss)
    size = cell.spread * np.sqrt((gain + loss - (gain - loss) ** 2) / cell.count)
    if size * _LARGEST / _NARROWER > room:
        return None
    values = []
    for one, (shift,) in zip(noise, shifts, strict=True):
        more = size * shift / (1 + (gain > 0 and loss > 0))
        right = one[:, 0] < special.ndtri(gain + (gain > 0) * more)
        wrong = one[:, 0] > special.ndtri(1 - loss + (loss > 0) * more)
        values.append(right.astype(np.float64) - wrong)
    share = cell.kind.startswith("share")
    return Study(values, examples, (0.0, 1.0) if share else (-1.0, 1.0), gain - loss)


_LARGEST = 2.5  # shifts of seeds are normal, cut off there
_NARROWER = 0.9546  # standard deviation of a normal number cut off at 2.5


def _shifts(rng: np.random.Generator, cell: Cell, columns: int) -> np.ndarray:
    """Standardised deviations of seeds, [seeds, columns]."""
    below = special.ndtr(-_LARGEST)
    found = special.ndtri(below + rng.random((cell.seeds, columns + 1)) * (1 - 2 * below)) / _NARROWER
    return np.sqrt(0.5) * (found[:, 1:] + found[:, :1]) if "correlated" in cell.kind else found[:, 1:]


def _noise(cell: Cell, rng: np.random.Generator, columns: int) -> tuple[list[np.ndarray], Any]:
    """What examples add, standard normal, [examples, columns] for every seed, and which examples they are."""

    def normal(count: int) -> np.ndarray:
        found = rng.standard_normal((count, columns), np.float32)
        if "correlated" in cell.kind:
            found = np.sqrt(np.float32(0.5)) * (found + rng.standard_normal((count, 1), np.float32))
        return found

    own = [normal(cell.count) for _ in range(cell.seeds)]
    if cell.images == "fresh":
        return own, "fresh"
    pool = normal(cell.count * (1 if cell.images == "shared" else POOL))
    places: list[np.ndarray] = [np.arange(cell.count)] * cell.seeds
    if cell.images == "re-split":
        places = [rng.permutation(len(pool))[: cell.count] for _ in own]
    common, rest = np.float32(PART**0.5), np.float32((1 - PART) ** 0.5)
    mixed = [common * pool[at] + rest * one for at, one in zip(places, own, strict=True)]
    return mixed, "shared" if cell.images == "shared" else places


def _shares(kind: str) -> tuple[float, float]:
    words = kind.replace(",", "").split()
    return (float(words[1]), 0.0) if words[0] == "share" else (float(words[1]), float(words[3]))


def found(study: Study) -> list[stats.Interval]:
    """Computes the intervals of a study."""
    options: dict[str, Any] = {"examples": study.examples, "bounds": study.bounds}
    if study.values[0].ndim == 2:
        return stats.simultaneous(study.values, **options)
    return [stats.interval(study.values, **options)]


def coverage(cell: Cell, draws: int) -> float | None:
    """Counts how often all intervals of a study hold; None where seeds cannot spread so far."""
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr(cell).encode())))
    held = 0
    for _ in range(draws):
        if (study := draw(cell, rng)) is None:
            return None
        held += all(one.low - 1e-12 <= study.truth <= one.high + 1e-12 for one in found(study))
    return held / draws


def grid() -> Iterator[tuple[Cell, int]]:
    """Lists the cells, and how often each is drawn; fewer of the largest, which take long."""
    large = ("mean", "share 0.99", "gained 0, lost 0.03")
    for count, kinds, several, spreads, draws in (
        (100, KINDS, (2, 3, 5, 10), (0, 0.5, 1, 3, 10), 4000),
        (1000, KINDS, (2, 3, 5, 10), (0, 1, 10), 2000),
        (50_000, large, (2, 3, 10), (0, 1, 10), 1500),
        (50_000, (f"{COLUMNS} means",), (3,), (0, 1, 10), 1500),
    ):
        for kind, images, seeds, spread in itertools.product(kinds, IMAGES, several, spreads):
            yield Cell(kind, images, seeds, count, spread), draws


class Bound(NamedTuple):
    """Studies whose truth lies at the bound of a claim; one number for each seed where ``count`` is 1."""

    images: str
    seeds: int
    count: int
    spread: float


def wrong(bound: Bound, draws: int) -> tuple[float, ...]:
    """Counts false "holds" and "does not hold" of a mean and of a difference of hits, and false "found" of seven rungs.

    The difference is NaN where there are no hits, or seeds cannot spread so far.
    """
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(repr(bound).encode())))
    mean, difference, seven = (Cell(kind, *bound) for kind in ("mean", "gained 0.1, lost 0.1", f"{COLUMNS} means"))
    said = np.zeros(5)
    for _ in range(draws):
        studies = [draw(mean, rng), draw(difference, rng) if bound.count > 1 else None]
        for place, study in enumerate(studies):
            verdict = "" if study is None else stats.above(found(study)[0], 0.0)
            said[2 * place : 2 * place + 2] += verdict == "holds", verdict == "does not hold"
            said[2 * place : 2 * place + 2] += np.nan if study is None else 0
        said[4] += stats.sweet_spot(found(draw(seven, rng))) == "found"
    return tuple((said / draws).tolist())


def bounds() -> Iterator[Bound]:
    """Lists the studies of which wrong words are counted."""
    yield from (Bound("fresh", seeds, 1, 1) for seeds in (2, 3, 5, 10))
    for images, seeds, spread in itertools.product(IMAGES, (2, 3, 5, 10), (0, 1, 4)):
        yield Bound(images, seeds, 200, spread)


def main(words: list[str]) -> int:
    """Prints the grid, the wrong words and the extremes; 1 where one is outside what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="draw a twentieth as often")
    parser.add_argument("--words", action="store_true", help="count wrong words alone, and no coverage")
    options = parser.parse_args(words)
    share = 20 if options.quick else 1
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        cells = [] if options.words else list(grid())
        print("Coverage of intervals of 95 %; -: seeds cannot spread so far, as shares end at 0 and 1.")
        held = pool.map(coverage, [cell for cell, _ in cells], [draws // share for _, draws in cells])
        done: dict[Cell, float] = {}
        for place, line in itertools.groupby(zip(cells, held, strict=True), key=lambda one: one[0][0][:4]):
            kind, images, seeds, count = place
            shown = []
            for (cell, _), rate in line:
                shown.append(f"{cell.spread:g}: {'-' if rate is None else f'{rate:.3f}'}")
                done |= {} if rate is None else {cell: rate}
            print(f"{kind:24} n = {count:<6} {images:9} {seeds:2} seeds  spread {'  '.join(shown)}", flush=True)
        print(
            'Truth at the bound: false "holds" and "does not hold" of a mean, of a difference; "found" of seven rungs.'
        )
        listed = list(bounds())
        words_said = dict(zip(listed, pool.map(wrong, listed, [10_000 // share] * len(listed)), strict=True))
        for bound, rates in words_said.items():
            print(f"{bound}: {'  '.join(f'{rate:.4f}' for rate in rates)}")
    return report(done, words_said)


def report(done: dict[Cell, float], said: dict[Bound, tuple[float, ...]]) -> int:
    """Prints the extremes; 1 where one is outside what is asked for."""
    continuous = [cell for cell in done if cell.kind in CONTINUOUS]
    above = [cell for cell in continuous if done[cell] > MOST]
    low = [cell for cell in done if done[cell] < LEAST]
    if done:
        lowest, highest = min(done, key=lambda cell: done[cell]), max(continuous, key=lambda cell: done[cell])
        print(f"{len(done)} cells; the least coverage {done[lowest]:.3f}, of {lowest}")
        print(f"the most of a continuous quantity {done[highest]:.3f}; {len(above)} cells above {MOST}:")
    for cell in above:
        print(f"  {cell}: {done[cell]:.3f}")
    worst = np.nanmax(list(said.values()), axis=0)
    print(f'false "holds" or "does not hold" at most {worst[:4].max():.2%}, false "found" at most {worst[4]:.2%}')
    return int(bool(low or above) or worst.max() > WRONG)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
