"""Tensors of a file by their names."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxprune.tensor_files.kinds import BFloat16
from jaxprune.tensor_files.values import Placeholder, Unreadable

# What the reader of one format finds: (tensors, others).
Parts = tuple[dict[str, np.ndarray | BFloat16 | Unreadable], dict[str, Any]]


class Tensors(Mapping[str, Any]):
    """The tensors of a file: read-only arrays by their names.

    Numbers stored in bfloat16 are float32 here, made anew each time that they are asked for; every other array is a
    view of the file's bytes.  Names of tensors that cannot be had are among the names, and asking for one is an error.

    Args:
      path: for messages.
      parts: what was found.
      others: what else has a name.
    """

    def __init__(
        self, path: str, parts: Mapping[str, np.ndarray | BFloat16 | Unreadable], others: Mapping[str, Any]
    ) -> None:
        self._path, self._parts, self._others = path, parts, others

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor of that name.

        Raises:
          KeyError: the file has no such name.
          ValueError: what has that name depends on something that was not imported, or is of a kind that NumPy has not.
        """
        if name not in self._parts and isinstance(found := self._others.get(name), Placeholder):
            part: Any = Unreadable(f"no tensor, but an object made by {found.name}")
        else:
            part = self._parts[name]
        if isinstance(part, Unreadable):
            raise ValueError(
                f"{self._path}: expected a tensor {name!r}, but it is {part.reason}. Save it as plain numbers "
                "from the program that wrote it, such as .detach().to_dense().float()."
            )
        if isinstance(part, BFloat16):
            part = part.widened()
            part.flags.writeable = False
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, name: object) -> bool:
        # That of Mapping asks for the tensor.
        return name in self._parts


@dataclasses.dataclass(frozen=True, eq=False)
class TensorFile:
    """What a file of tensors holds.

    Attributes:
      tensors: read-only arrays by their names; dictionaries and lists on the way to them joined by dots.
      other: what lies beside them, by such names: numbers, text, inert placeholders, and what is known of tensors that
        cannot be had.
      format: "safetensors", "npz", "pytorch", "pytorch-legacy" or "torchscript".
      fingerprint: the first 16 hexadecimal digits of the SHA-256 of the file's bytes.
    """

    tensors: Tensors
    other: Mapping[str, Any]
    format: str
    fingerprint: str
