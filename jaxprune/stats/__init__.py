"""Intervals and verdicts: what a few seeds and a few hundred test examples can say.

A number is measured of several networks, one for each seed, on test examples that the networks may share.  What is
claimed is claimed of other seeds and of other examples.  Its mean varies with both, and the intervals here allow for
both: they are closed forms, and ``scripts/coverage.py`` counts how often they hold.
"""

from jaxprune.stats._moments import Examples, Interval
from jaxprune.stats.intervals import interval, simultaneous
from jaxprune.stats.verdicts import ROUNDING, above, at_least, sweet_spot

__all__ = ["ROUNDING", "Examples", "Interval", "above", "at_least", "interval", "simultaneous", "sweet_spot"]
