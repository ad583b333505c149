"""Training: one step, the loop around it with its hooks, checkpoints and resume, and statistics anew after pruning."""

from jaxprune.train.loop import fit
from jaxprune.train.statistics import recalibrate
from jaxprune.train.stepping import step

__all__ = ["fit", "recalibrate", "step"]
