"""From scores to masks: exact selection, and applying a mask."""

from jaxprune.masks.selection import TiesWarning, apply, n_of_m, ones, sparsity, unstructured

__all__ = ["TiesWarning", "apply", "n_of_m", "ones", "sparsity", "unstructured"]
