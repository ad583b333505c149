"""Makers of scores: each returns ``(network, batches) -> scores``, one number a weight, larger = keep.

``batches`` is a list (or anything that can be read twice) of batches of any size; a score is that of all their examples
taken together, weighted.

    magnitude()                              how large the weight is
    random(key)                              the control
    synflow()                                what flows through it, whatever the data
    snip(loss), grasp(loss), fisher(loss)    what gradients say
    diagonal_hessian(loss)                   what deleting it alone costs, to second order
    block_hessian(loss, form="greedy")       what deleting many costs, if those that stay make up for it
    price_flat(score)                        the same, where nothing changes behind a unit and all its weights score 0

``surgeon_update(loss)`` makes what moves the weights that stay.
"""

from jaxprune.scores.first_order import fisher, grasp, snip
from jaxprune.scores.flat import price_flat
from jaxprune.scores.second_order import block_hessian, diagonal_hessian
from jaxprune.scores.surgeon import surgeon_update
from jaxprune.scores.without_data import magnitude, random, synflow

__all__ = [
    "block_hessian",
    "diagonal_hessian",
    "fisher",
    "grasp",
    "magnitude",
    "price_flat",
    "random",
    "snip",
    "surgeon_update",
    "synflow",
]
