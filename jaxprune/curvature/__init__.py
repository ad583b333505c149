"""Exact second order of the mean loss: products, diagonals and blocks.

Every number is the named matrix of the weighted mean loss of the network in evaluation mode, at matmul precision
"highest".  ``plan`` says by which route it would be computed, why, and at what cost; no route approximates.
"""

from jaxprune.curvature.blocks import block, block_factors, block_members, block_product, columns, diagonal
from jaxprune.curvature.planning import Plan, plan
from jaxprune.curvature.products import ggnvp, gradient, hvp
from jaxprune.curvature.stream import average

__all__ = [
    "Plan",
    "average",
    "block",
    "block_factors",
    "block_members",
    "block_product",
    "columns",
    "diagonal",
    "ggnvp",
    "gradient",
    "hvp",
    "plan",
]
