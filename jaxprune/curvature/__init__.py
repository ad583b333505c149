"""Exact second order of the mean loss: products, diagonals and blocks.

Every number is the named matrix of the weighted mean loss of the network in evaluation mode, at matmul precision
"highest".  This is the plain route: one exact product for each block, restricted to one leaf at a time.
"""

from jaxprune.curvature.blocks import block, block_product, diagonal
from jaxprune.curvature.products import ggnvp, gradient, hvp
from jaxprune.curvature.stream import average

__all__ = ["average", "block", "block_product", "diagonal", "ggnvp", "gradient", "hvp"]
