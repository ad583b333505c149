"""A program for any number of images, from its programs for a few.

Most functions cannot be traced with a number of images that is open (``len(x)`` is a number of Python).  So a function
is traced for several numbers, and wherever its programs differ it must be by a whole number a + b n, or the function is
refused.  In the document it is then ``{"per image": [a, b]}``.
"""

from collections.abc import Sequence
from typing import Any

from jaxprune.structured.programs.values import Unknown

# Primes that are no widths of networks; two give a and b, the third has to agree.
COUNTS = (5, 7, 67)
_SIZE = "per image"


def merged(documents: Sequence[Any], where: str = "") -> Any:
    """Makes one document of those for ``COUNTS`` images.

    Raises:
      Unknown: they differ otherwise than in sizes that grow evenly with the number of images.

    >>> merged([{"shape": [5, 3]}, {"shape": [7, 3]}, {"shape": [67, 3]}])
    {'shape': [{'per image': [0, 1]}, 3]}
    """
    first = documents[0]
    if isinstance(first, dict) and all(isinstance(one, dict) and one.keys() == first.keys() for one in documents):
        place = f"{where}, {first['do']}" if "do" in first else where
        return {key: merged([one[key] for one in documents], f"{place}, {key}") for key in first}
    if isinstance(first, list) and all(isinstance(one, list) and len(one) == len(first) for one in documents):
        numbered = where.endswith("steps")
        return [
            merged(parts, f"step {number}" if numbered else where)
            for number, parts in enumerate(zip(*documents, strict=True))
        ]
    if all(type(one) is type(first) and one == first for one in documents):
        return first
    whole = all(isinstance(one, int) and not isinstance(one, bool) for one in documents)
    counts = all(isinstance(one, float) and one.is_integer() for one in documents)  # a sum is divided by how many
    if whole or counts:
        slope, rest = divmod(round(documents[1] - documents[0]), COUNTS[1] - COUNTS[0])
        start = round(documents[0]) - slope * COUNTS[0]
        if rest == 0 and all(round(one) == start + slope * n for one, n in zip(documents, COUNTS, strict=True)):
            return {_SIZE: [start, slope]}
    shown = ", ".join(str(one)[:60] for one in documents)
    raise Unknown(
        f"a program that depends on the number of images otherwise than by sizes in proportion to it: for "
        f"{', '.join(map(str, COUNTS))} images it has {shown} ({where.lstrip(', ')})"
    )


def at(document: Any, count: Any) -> Any:
    """The document for a number of images.

    Args:
      document: that ``merged`` made.
      count: how many images; also a number that is open, of ``jax.export``.

    >>> at({"shape": [{"per image": [0, 1]}, 3]}, 4)
    {'shape': [4, 3]}
    """
    if isinstance(document, list):
        return [at(one, count) for one in document]
    if not isinstance(document, dict):
        return document
    if document.keys() == {_SIZE}:
        match document[_SIZE]:
            case [int(start), int(slope)]:
                return start + slope * count
        raise Unknown(f"the size {str(document)[:80]}")
    return {key: at(one, count) for key, one in document.items()}
