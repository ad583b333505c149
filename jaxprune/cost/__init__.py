"""What a network costs: operations and parameters counted, time measured, energy estimated or measured."""

from jaxprune.cost.compilation import Spent, stopwatch
from jaxprune.cost.counting import macs, macs_by_leaf, parameters
from jaxprune.cost.energy import Energy, Saving, estimate, saving
from jaxprune.cost.measuring import Measurement, measured
from jaxprune.cost.timing import Comparison, Latency, Ratio, compare, latency

__all__ = [
    "Comparison",
    "Energy",
    "Latency",
    "Measurement",
    "Ratio",
    "Saving",
    "Spent",
    "compare",
    "estimate",
    "latency",
    "macs",
    "macs_by_leaf",
    "measured",
    "parameters",
    "saving",
    "stopwatch",
]
