"""Studies: a package each, on the skeleton in ``shared``.  Here packages of the library meet, and strings become functions."""

from experiments.shared.results import load

__all__ = ["load"]
