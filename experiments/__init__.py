"""Studies: a package each, on the skeleton in ``shared``.  Here stations meet, and strings become functions."""

from experiments.shared.results import load

__all__ = ["load"]
