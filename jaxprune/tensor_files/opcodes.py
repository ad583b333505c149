"""A pickle read as data: the opcodes of protocols 0 to 5, and nothing that they could run.

A pickle is a program for a machine with a stack, a memory and two dangerous instructions: import a name, and call what
was imported.  Here a name becomes a ``Placeholder``, and what a call means is asked of a ``Meaning``.  Nothing nests:
however deep the values, the machine is a loop.  What that is to withstand is in the package's own text.

Source: the disassembler of Python's standard library documents the opcodes; PEP 307, PEP 3154, PEP 574.
"""

from collections.abc import Callable
from typing import Any

from jaxprune.tensor_files.machine import Machine, Meaning, of_python_2
from jaxprune.tensor_files.refusal import Allowance


def run(data: bytes, start: int, end: int, meaning: Meaning, allowance: Allowance) -> tuple[Any, int]:
    """Reads one pickle.

    Args:
      data: bytes that hold it.
      start: where it begins.
      end: where the bytes end that may belong to it.
      meaning: of names.
      allowance: the memory that its values may take.

    Returns:
      (value, position behind it).  The value is made of None, numbers, text, bytes, lists (sets too), tuples,
      dictionaries and what ``meaning`` made.

    Raises:
      Refusal: it is damaged, refers to what is not in it, or asks for too much.
    """
    machine = Machine(data, start, end, meaning, allowance)
    while (opcode := machine.take(1)[0]) != _STOP:
        action = _ACTIONS.get(opcode)
        if action is None:
            raise machine.broken(f"holds the instruction 0x{opcode:02x}, which no file of tensors needs")
        allowance.spend(256 if opcode in _HEAVY else 64)
        action(machine)
    return machine.pop(), machine.position


def _pushes(value: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    def action(machine: Machine) -> None:
        # First the value: to make it can replace the stack.
        made = value(machine)
        machine.stack.append(made)

    return action


def _table() -> dict[int, Callable[[Machine], Any]]:
    """What every instruction does.  The registry of extensions and buffers outside of the file are not among them."""
    actions = _changing() | {key: _pushes(value) for key, value in _pushing().items()}
    return {key[0]: action for key, action in actions.items()}


def _changing() -> dict[bytes, Callable[[Machine], Any]]:
    """Those that change what is there."""
    return {
        b"(": Machine.mark,
        b"0": _discard,
        b"1": Machine.marked,
        b"a": lambda m: m.extend(list(m.last(1))),
        b"e": lambda m: m.extend(m.marked()),
        b"\x90": lambda m: m.extend(m.marked()),
        b"s": lambda m: m.set_items(list(m.last(2))),
        b"u": lambda m: m.set_items(m.marked()),
        b"R": Machine.reduce,
        b"\x81": Machine.reduce,
        b"\x92": Machine.new_with_keywords,
        b"i": Machine.instance,
        b"o": Machine.object,
        b"b": Machine.build,
        b"p": lambda m: m.put(m.index()),
        b"q": lambda m: m.put(m.number("<B")),
        b"r": lambda m: m.put(m.number("<I")),
        b"\x94": lambda m: m.put(len(m.memory)),
        b"g": lambda m: m.get(m.index()),
        b"h": lambda m: m.get(m.number("<B")),
        b"j": lambda m: m.get(m.number("<I")),
        b"\x80": Machine.protocol,
        b"\x95": Machine.frame,
    }


def _pushing() -> dict[bytes, Callable[[Machine], Any]]:
    """Those that make a value, which is pushed."""
    return {
        b"N": lambda m: None,
        b"\x88": lambda m: True,
        b"\x89": lambda m: False,
        b"2": Machine.top,
        b"I": Machine.truth_or_whole,
        b"L": Machine.whole,
        b"F": Machine.real,
        b"J": lambda m: m.number("<i"),
        b"K": lambda m: m.number("<B"),
        b"M": lambda m: m.number("<H"),
        b"G": lambda m: m.number(">d"),
        b"\x8a": lambda m: m.long("<B"),
        b"\x8b": lambda m: m.long("<i"),
        b"S": Machine.quoted,
        b"T": lambda m: of_python_2(m.block("<i")),
        b"U": lambda m: of_python_2(m.block("<B")),
        b"V": lambda m: m.text(m.line(), "raw-unicode-escape", "strict"),
        b"X": lambda m: m.text(m.block("<I")),
        b"\x8c": lambda m: m.text(m.block("<B")),
        b"\x8d": lambda m: m.text(m.block("<Q")),
        b"B": lambda m: m.block("<I"),
        b"C": lambda m: m.block("<B"),
        b"\x8e": lambda m: m.block("<Q"),
        b"\x96": lambda m: m.block("<Q"),
        b")": lambda m: (),
        b"t": lambda m: tuple(m.marked()),
        b"\x91": lambda m: tuple(m.marked()),
        b"\x85": lambda m: m.last(1),
        b"\x86": lambda m: m.last(2),
        b"\x87": lambda m: m.last(3),
        b"]": lambda m: [],
        b"\x8f": lambda m: [],
        b"l": Machine.marked,
        b"}": lambda m: {},
        b"d": lambda m: _filled(m, m.marked()),
        b"c": Machine.line_name,
        b"\x93": lambda m: m.named(*m.last(2)),
        b"P": lambda m: m.meaning.persistent(m.text(m.line())),
        b"Q": lambda m: m.meaning.persistent(m.pop()),
    }


def _discard(machine: Machine) -> None:
    """Takes a value away; where there is none since the mark, the mark."""
    if machine.stack:
        machine.stack.pop()
    else:
        machine.marked()


def _filled(machine: Machine, values: list[Any]) -> dict[Any, Any]:
    machine.stack.append({})
    machine.set_items(values)
    return machine.pop()


_STOP = ord(".")
_ACTIONS = _table()
# Those after which more is kept than a pointer and a number.
_HEAVY = frozenset(b"(bcdioqpr}PQRs\x81\x90\x92\x93\x94")
