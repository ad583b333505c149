"""Checkpoints: a state by its step in a folder, whole or not there at all.

``folder`` says which checkpoint there is, and who may write; ``contents`` what is in one; ``shards`` how several
processes write one together.
"""

from jaxprune.checkpoint.contents import demand_savable
from jaxprune.checkpoint.folder import Writer, restore, save, steps

__all__ = ["Writer", "demand_savable", "restore", "save", "steps"]
