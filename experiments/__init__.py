"""Studies: a package each, on the skeleton in ``shared``.  Only here do strings become functions."""

from experiments.shared.results import load

__all__ = ["load"]
