"""The shape of the loss around a network: its curvature, how that of two tasks aligns, and paths through it.

Everything is made of the exact products of ``jaxprune.curvature``: of the mean loss over all batches, in evaluation
mode, at matmul precision "highest".  Everything loops on the host over compiled products, so nothing here is jitted.
"""

from jaxprune.geometry.operators import Operator, operator
from jaxprune.geometry.paths import Barrier, PruningPath, barrier, pruning_path
from jaxprune.geometry.slices import Line, Plane, filter_normalised, line, plane
from jaxprune.geometry.spectrum import Density, Eigenpairs, Estimate, density, eigenpairs, trace
from jaxprune.geometry.subspace import Alignment, alignment

__all__ = [
    "Alignment",
    "Barrier",
    "Density",
    "Eigenpairs",
    "Estimate",
    "Line",
    "Operator",
    "Plane",
    "PruningPath",
    "alignment",
    "barrier",
    "density",
    "eigenpairs",
    "filter_normalised",
    "line",
    "operator",
    "plane",
    "pruning_path",
    "trace",
]
