"""Every precondition of the library, once, with a message that says what to do.

Each function raises ``ValueError`` (or ``TypeError``) naming the argument, what was expected, what
came, and the remedy; it returns nothing, or the value in its checked form.  ``is_number``,
``are_numbers`` and ``is_whole`` only answer, for preconditions with a message of their own; ``first_line`` quotes the
error of somebody else in one.
"""

from jaxprune.check.data import batch, batches, each, finite_batch, floating_images, label_range, labels, outputs, takes
from jaxprune.check.trees import (
    concrete,
    distinct,
    finite,
    first_line,
    mask,
    network,
    real,
    same_structure,
    static_bools,
)
from jaxprune.check.values import (
    are_numbers,
    choice,
    is_number,
    is_whole,
    key,
    numbers,
    positive,
    sparsity,
    whole,
    within,
    writable,
)

__all__ = [
    "are_numbers",
    "batch",
    "batches",
    "choice",
    "concrete",
    "distinct",
    "each",
    "finite",
    "finite_batch",
    "first_line",
    "floating_images",
    "is_number",
    "is_whole",
    "key",
    "label_range",
    "labels",
    "mask",
    "network",
    "numbers",
    "outputs",
    "positive",
    "real",
    "same_structure",
    "sparsity",
    "static_bools",
    "takes",
    "whole",
    "within",
    "writable",
]
