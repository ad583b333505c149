"""Named tensors on disk, of any source: read without running anything, written so that others read them.

What a file can do to who reads it.  Every byte of a file may be chosen by an attacker; this is promised all the same:

- Nothing is run.  A file is data: its pickle is interpreted by a machine of ours (``opcodes``, ``machine``) that
  imports no name and makes no call.  A few names are known to stand for tensors (``torch_names``), any other becomes a
  ``Placeholder``, and what depends on it can't be had.  Headers are JSON, or literals that are not evaluated.
- Memory: the bytes of the file and less than 150 MB besides.  Tensors are views of these bytes, which NumPy holds to
  their bounds.  What is built beside them is paid for beforehand (``refusal.Allowance``); headers and directories that
  others parse have a greatest length.  Two things take more: compressed npz, at most 16 times the file and 90 MB; and
  bfloat16, which becomes float32 when it is asked for, twice its bytes.
- Time: in proportion to the bytes of the file, and to what was paid for.  Nothing recurses as deep as a file says.
- The outcome is the tensors or a ``ValueError`` that names the file.  Damage is found by checksums where the format has
  them, which safetensors and PyTorch's legacy format don't; the fingerprint in ``TensorFile`` covers every byte.

This is not promised: that the numbers are those somebody meant; that NumPy, zlib, zipfile, json and safetensors, which
see parts of the file, are without faults; anything about a file that another program changes while it is read; that
what a ``Placeholder`` holds is fit for anything but to be inspected.
"""

from jaxprune.tensor_files.named import TensorFile, Tensors
from jaxprune.tensor_files.reading import read
from jaxprune.tensor_files.values import Placeholder
from jaxprune.tensor_files.writing import write

__all__ = ["Placeholder", "TensorFile", "Tensors", "read", "write"]
