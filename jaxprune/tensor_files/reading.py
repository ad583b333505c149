"""Any file of tensors, recognised by its content."""

import hashlib
import os
from pathlib import Path

from jaxprune.tensor_files import archive, npz_files, pytorch_files, safetensors_files
from jaxprune.tensor_files.named import Parts, TensorFile, Tensors
from jaxprune.tensor_files.refusal import Refusal
from jaxprune.tensor_files.values import Unreadable

_KNOWN = "Known are safetensors, npz, and what torch.save and torch.jit.save write"
# Formats that are met, and what to do about them: where, which bytes, what it is.
_OTHERS = (
    (257, b"ustar", "an archive of tar, as PyTorch wrote before 2017", "Load and save it with PyTorch again."),
    (0, b"\x93NUMPY", "a single array of NumPy", "Save it by numpy.savez, with a name."),
    (0, b"\x89HDF", "a file of HDF5", "Save its arrays by numpy.savez."),
    (0, b"\x1f\x8b", "compressed by gzip", "Unpack it first: gzip -d."),
    (0, b"<", "a page of the web", "Download it again, from the address of the file itself."),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "Fetch the file itself: git lfs pull."),
    (0, b"\x80", "a pickle that torch.save did not write", "Save its arrays by numpy.savez."),
)


def read(path: str | os.PathLike[str]) -> TensorFile:
    """Reads named tensors from a file, running nothing of what it holds.

    The format is recognised by content: safetensors; NumPy's npz; what ``torch.save`` writes, and wrote before PyTorch
    1.6; what ``torch.jit.save`` writes, of which the tensors are read and the code is not.  Dictionaries and lists
    become dotted names, as in "state_dict.fc.weight"; that of a tensor saved alone is "".

    Numbers are as stored, bfloat16 as float32.  The package's own text says what a file from an unknown source can do,
    and how much memory it takes.

    Args:
      path: the file.

    Returns:
      Its tensors, what lies beside them, its format and fingerprint.

    Raises:
      ValueError: there is no file, its format is not known, or it is damaged: cut off, with a wrong checksum, with
        tensors outside of their storage, with compressed or encrypted members.  A tensor that cannot be had is no
        error before it is asked for.

    >>> import tempfile
    >>> import numpy as np
    >>> from jaxprune.tensor_files import write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/net.pth", {"fc.weight": np.eye(2, dtype=np.float32)})
    ...     file = read(f"{folder}/net.pth")
    >>> file.format, file.tensors["fc.weight"].tolist()
    ('pytorch', [[1.0, 0.0], [0.0, 1.0]])
    """
    try:
        if not Path(path).is_file():
            raise OSError("it is not there, or no file")
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"path: expected a file, but {str(path)!r} cannot be read ({error.strerror or error}). Pass where it lies."
        ) from error
    try:
        kind, (parts, others) = _recognised(data, path)
    except Refusal as refusal:
        raise refusal.about(path) from refusal
    unreadable = {name: part for name, part in parts.items() if isinstance(part, Unreadable)}
    digest = hashlib.sha256(data).hexdigest()[:16]
    return TensorFile(Tensors(str(path), parts, others), {**others, **unreadable}, kind, digest)


def _recognised(data: bytes, path: str | os.PathLike[str]) -> tuple[str, Parts]:
    """Reads a file by the reader of its format."""
    # Two letters would not do: they can be the length of a header of safetensors.
    if data.startswith((b"PK\3\4", b"PK\5\6")):
        return _archive(data)
    if pytorch_files.is_legacy(data):
        return "pytorch-legacy", pytorch_files.read_legacy(data)
    if safetensors_files.is_safetensors(data):
        return "safetensors", safetensors_files.read(data, path)
    if not data:
        raise Refusal("it is empty")
    for place, mark, what, remedy in _OTHERS:
        if data[place : place + len(mark)] == mark:
            raise Refusal(f"it is {what}", remedy)
    raise Refusal("its first bytes are of no known format", f"{_KNOWN}. Is it complete?")


def _archive(data: bytes) -> tuple[str, Parts]:
    source = archive.Archive(data)
    if all(name.endswith(".npy") for name in source.members):
        return "npz", npz_files.read(source)
    inner = {name.partition("/")[2] for name in source.members}
    if "model.json" in inner:
        raise Refusal("it is an archive of TorchScript before 1.4", "Load and save it with PyTorch again.")
    if "data.pkl" not in inner:
        raise Refusal("it is a zip archive of something else than tensors", f"{_KNOWN}. Unpack it first?")
    kind = "torchscript" if "constants.pkl" in inner else "pytorch"
    return kind, pytorch_files.read_zip(source)
