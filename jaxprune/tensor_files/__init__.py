"""Named tensors on disk, of any source: read without running anything, written so that others read them.

A file is data.  What is read are bytes, bounds and a few words; a pickle in it is interpreted by a machine that imports
nothing, and what it does not know becomes a placeholder.
"""

from jaxprune.tensor_files.named import TensorFile, Tensors
from jaxprune.tensor_files.reading import read
from jaxprune.tensor_files.values import Placeholder
from jaxprune.tensor_files.writing import write

__all__ = ["Placeholder", "TensorFile", "Tensors", "read", "write"]
