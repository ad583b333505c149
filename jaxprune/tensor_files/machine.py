"""The machine that a pickle is a program for: bytes, a stack with marks, a memory."""

import struct
from typing import Any, Protocol, runtime_checkable

from jaxprune.tensor_files.refusal import Allowance, Refusal
from jaxprune.tensor_files.values import Placeholder

# Digits and bytes of the longest number, parts of the longest key: more than any honest file has.
_DIGITS, _LONG, _KEYS = 310, 128, 16
PLAIN = (str, int, float, bool, bytes, type(None))


@runtime_checkable
class Meaning(Protocol):
    """What the names in a pickle stand for."""

    def call(self, function: Placeholder, arguments: tuple[Any, ...]) -> Any:
        """What a call makes."""
        ...

    def build(self, instance: Any, state: Any) -> Any:
        """What an object becomes by its state: itself, changed, or something else."""
        ...

    def persistent(self, identity: Any) -> Any:
        """What lies outside of the pickle."""
        ...


class Machine:
    """A stack, marks in it, and a memory by number; it reads its program from bytes.

    Args:
      data: bytes that hold the program.
      start: where it begins.
      end: where the bytes end that may belong to it.
      meaning: of the names in it.
      allowance: the memory that its values may take.
    """

    def __init__(self, data: bytes, start: int, end: int, meaning: Meaning, allowance: Allowance) -> None:
        self.data, self.position, self.end = data, start, end
        self.meaning, self.allowance = meaning, allowance
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memory: dict[int, Any] = {}

    def broken(self, what: str) -> Refusal:
        return Refusal(f"its pickle {what} (byte {self.position})")

    # Bytes.

    def take(self, count: int) -> bytes:
        position = self.position
        if count < 0 or count > self.end - position:
            raise self.broken("ends early")
        self.position = position + count
        return self.data[position : position + count]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        stop = self.data.find(b"\n", self.position, self.end)
        if stop < 0:
            raise self.broken("ends early")
        # As many as four bytes for a character.
        self.allowance.spend(4 * (stop - self.position))
        line = self.take(stop - self.position)
        self.position += 1
        return line

    def block(self, form: str) -> bytes:
        count = self.number(form)
        self.allowance.spend(4 * max(count, 0) if count <= self.end - self.position else 0)
        return self.take(count)

    def text(self, raw: bytes, encoding: str = "utf-8", errors: str = "surrogatepass") -> str:
        try:
            return raw.decode(encoding, errors)
        except UnicodeError as error:
            raise self.broken("holds text that cannot be decoded") from error

    # The stack.

    def pop(self) -> Any:
        if not self.stack:
            raise self.broken("takes a value where there is none")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise self.broken("takes a value where there is none")
        return self.stack[-1]

    def marked(self) -> list[Any]:
        """Takes what was pushed since the last mark."""
        if not self.outer:
            raise self.broken("closes what it did not open")
        values, self.stack = self.stack, self.outer.pop()
        return values

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def last(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise self.broken("takes a value where there is none")
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    # Memory.

    def put(self, index: int) -> None:
        self.memory[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memory:
            raise self.broken(f"remembers a value {index} that it never had")
        self.stack.append(self.memory[index])

    # Numbers and text as lines.

    def whole(self) -> int:
        line = self.line().rstrip(b"L")
        if len(line) > _DIGITS or not line.removeprefix(b"-").isdigit():
            raise self.broken("holds a number that is none")
        return int(line)

    def index(self) -> int:
        value = self.whole()
        if not 0 <= value < 2**32:
            raise self.broken("holds a position that is none")
        return value

    def truth_or_whole(self) -> Any:
        if self.data[self.position : self.position + 3] in (b"00\n", b"01\n"):
            return self.line() == b"01"
        return self.whole()

    def real(self) -> float:
        try:
            return float(self.line())
        except ValueError as error:
            raise self.broken("holds a number that is none") from error

    def long(self, form: str) -> int:
        count = self.number(form)
        if not 0 <= count <= _LONG:
            raise self.broken(f"holds a number of {count} bytes")
        return int.from_bytes(self.take(count), "little", signed=True)

    def quoted(self) -> Any:
        line = self.line()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1] or b"\\" in line:
            raise self.broken("holds text that cannot be decoded")
        return of_python_2(line[1:-1])

    # Containers.

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Placeholder):
            self.allowance.spend(128 * len(values))
            target.entries.extend(enumerate(values, len(target.entries)))
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise self.broken(f"appends to a value of type {type(target).__name__}")

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if len(values) % 2:
            raise self.broken("holds a key without a value")
        self.allowance.spend(128 * len(values))
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if isinstance(target, Placeholder):
            target.entries.extend(pairs)
        elif isinstance(target, dict):
            target.update(self.dictionary(pairs))
        else:
            raise self.broken(f"puts a key into a value of type {type(target).__name__}")

    def dictionary(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        for key, _ in pairs:
            # The hash of a tuple is that of all it holds, which may be anything, and long.
            parts = key[: _KEYS + 1] if isinstance(key, tuple) else (key,)
            if len(parts) > _KEYS or not all(isinstance(part, (*PLAIN, Placeholder)) for part in parts):
                raise self.broken(f"holds a key of type {type(key).__name__}")
        return dict(pairs)

    # Names and calls.

    def called(self, function: Any, arguments: Any, keywords: Any = None) -> None:
        if not isinstance(arguments, tuple) or not isinstance(function, Placeholder):
            raise self.broken("calls what is no function")
        if keywords:
            self.allowance.spend(8 * len(arguments))
            self.stack.append(Placeholder(function.name, (*arguments, keywords)))
        else:
            self.stack.append(self.meaning.call(function, arguments))

    def named(self, module: Any, name: Any) -> Placeholder:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.broken("imports a name that is no text")
        self.allowance.spend(4 * (len(module) + len(name)))
        return Placeholder(f"{module}.{name}")

    def line_name(self) -> Placeholder:
        return self.named(self.text(self.line()), self.text(self.line()))

    def reduce(self) -> None:
        function, arguments = self.last(2)
        self.called(function, arguments)

    def new_with_keywords(self) -> None:
        self.called(*self.last(3))

    def instance(self) -> None:
        self.called(self.line_name(), tuple(self.marked()))

    def object(self) -> None:
        values = self.marked()
        if not values:
            raise self.broken("takes a value where there is none")
        self.called(values[0], tuple(values[1:]))

    def build(self) -> None:
        instance, state = self.last(2)
        self.stack.append(self.meaning.build(instance, state))

    def frame(self) -> None:
        if self.number("<Q") > self.end - self.position:
            raise self.broken("ends early")

    def protocol(self) -> None:
        if (protocol := self.number("<B")) > 5:
            raise self.broken(f"is of protocol {protocol}, where 5 is the highest")


def of_python_2(raw: bytes) -> str | bytes:
    """Text or bytes: Python 2 made no difference."""
    return raw.decode() if raw.isascii() else raw
