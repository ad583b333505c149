"""Exact second order of the mean loss: products, diagonals and blocks.

Every number is the named matrix of the weighted mean loss of the network in evaluation mode, at matmul precision
"highest".  ``plan`` says by which route it would be computed, why, and at what cost; no route approximates.
``estimate`` alone does: it returns an ``Estimate``, with standard errors.
"""

from jaxprune.curvature.blocks import block, block_factors, block_members, block_product, diagonal
from jaxprune.curvature.estimates import Estimate, estimate
from jaxprune.curvature.joint import joint_block
from jaxprune.curvature.planning import Plan, plan
from jaxprune.curvature.products import ggnvp, gradient, hvp
from jaxprune.curvature.sketched import sketched
from jaxprune.curvature.stream import average
from jaxprune.curvature.sweep import Sweep, sweep

__all__ = [
    "Estimate",
    "Plan",
    "Sweep",
    "average",
    "block",
    "block_factors",
    "block_members",
    "block_product",
    "diagonal",
    "estimate",
    "ggnvp",
    "gradient",
    "hvp",
    "joint_block",
    "plan",
    "sketched",
    "sweep",
]
