"""Pruning in rounds: score, select, move the remaining weights by a formula, by steps or by training, score again."""

from jaxprune.pruning.adam import adam_rounds
from jaxprune.pruning.compensation import surgeon_rounds
from jaxprune.pruning.rounds import Round, Rung, Train, Update, ladder, prune, prune_and_update, rounds
from jaxprune.pruning.trajectory import Attempt, Compensated

__all__ = [
    "Attempt",
    "Compensated",
    "Round",
    "Rung",
    "Train",
    "Update",
    "adam_rounds",
    "ladder",
    "prune",
    "prune_and_update",
    "rounds",
    "surgeon_rounds",
]
