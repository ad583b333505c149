"""What comes out of a pickle that is read and not run: inert records."""

from typing import Any


class Placeholder:
    """A class, function or object of some program, which was not imported and not called.

    Attributes:
      name: such as "argparse.Namespace".
      arguments: what it would have been called with; None for the class or function itself.
      state: what would have become its attributes.
      entries: (key, value) of what would have been put into it; what would have been appended is numbered.
    """

    __slots__ = ("arguments", "entries", "name", "state")

    def __init__(self, name: str, arguments: Any = None) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None
        self.entries: list[tuple[Any, Any]] = []

    def __repr__(self) -> str:
        # Not what it holds: that can hold itself.
        return f"<placeholder of {self.name}>"


class Unreadable:
    """A tensor that cannot be had, and why: continues "...: is "."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"<unreadable: {self.reason}>"


class Storage:
    """Numbers of a PyTorch file, by the key under which they lie in it.

    Attributes:
      key: the name of the storage.
      kind: see ``kinds``; None for numbers that NumPy has not.
      size: the bytes of one number.
      count: how many numbers there are.
      part: (first, count) of the numbers meant, where it is a view of a storage: the legacy format has such.
    """

    __slots__ = ("count", "key", "kind", "part", "size")

    def __init__(self, key: str, kind: str | None, size: int, count: int, part: tuple[int, int] | None = None) -> None:
        self.key, self.kind, self.size, self.count, self.part = key, kind, size, count, part


class Tensor:
    """A view of a storage.  Very old files make it first and fill it later."""

    __slots__ = ("kind", "offset", "shape", "storage", "strides")

    def __init__(
        self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], kind: str
    ) -> None:
        self.storage, self.offset, self.shape, self.strides, self.kind = storage, offset, shape, strides, kind


class Unfilled:
    """A tensor made without numbers, and what filled it afterwards."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content: Tensor | Unreadable = Unreadable("a tensor without numbers")
