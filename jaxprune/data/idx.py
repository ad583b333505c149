"""Labelled images in IDX files, as MNIST, Fashion-MNIST, KMNIST and EMNIST are published."""

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from jaxprune import check, memory
from jaxprune.data.source import Arrays

PARTS = ("train", "test")
"""The official parts; in names of files the second is "t10k", of EMNIST "test"."""

_FILE = re.compile(r"(?P<prefix>.*?)(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx[0-9]+-ubyte(\.gz)?")
_DIMENSIONS = {"images": 3, "labels": 1}
_UNSIGNED_BYTE = 8
_LONGEST = 1 << 24  # bytes that are read at a time
_RATIO = 1032  # no more bytes come of one that is compressed (deflate: 258 of two bits)


class _Header(NamedTuple):
    """What a file says of itself: the lengths of its axes, and how many bytes come before the data."""

    shape: tuple[int, ...]
    size: int


def idx(
    folder: str | Path,
    part: Literal["train", "test"] = "train",
    *,
    name: str = "",
    classes: Sequence[str] | None = None,
    transposed: bool | None = None,
) -> Arrays:
    """Reads an official part of a set in IDX files, compressed or not; it is checked, and lies in memory.

        train-images-idx3-ubyte   train-labels-idx1-ubyte                          part "train"
        t10k-images-idx3-ubyte    t10k-labels-idx1-ubyte                           part "test"
        emnist-letters-train-images-idx3-ubyte, emnist-letters-test-..., and so on: EMNIST

    with or without ``.gz``, and with ``.idx3`` in place of ``-idx3``.  A file begins with two zero bytes, the type (8:
    unsigned bytes), the number of axes, and their lengths, big-endian in 4 bytes each.  All headers are read, and
    compared, before any image is.

    Args:
      folder: where the files lie.
      part: which official part.
      name: what the names of the files begin with, where the folder holds several sets, such as "emnist-letters".
      classes: the names of the classes, in the order of their labels.  None: those of EMNIST's file of a mapping where
        it lies beside the images ("A" for the label 10, or "A a"), else the labels themselves.
      transposed: whether rows and columns of the pictures are exchanged in the files.  None: in those of EMNIST, whose
        names begin with "emnist", and no others.

    Returns:
      The source: uint8 [n, h, w, 1], named "idx:", the names of the folder and of the set, and the part.  Labels count
      from 0; where those of the files count from 1, as in EMNIST's letters, they are one less than there.

    Raises:
      ValueError: files that are missing, doubled, damaged, of another type or number of axes, shorter or longer than
        their headers say, more images than fit into memory or other than there are labels, a label that no image has,
        names that do not fit.

    Source: LeCun, Cortes and Burges (1998) for the format; Cohen et al. (2017), arXiv 1702.05373, for EMNIST.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     for what, head, data in (("images-idx3", (3, 2, 1, 2), [9, 8, 7, 6]), ("labels-idx1", (1, 2), [0, 1])):
    ...         content = struct.pack(f">HBB{len(head) - 1}I", 0, 8, *head) + bytes(data)
    ...         _ = (Path(place) / f"train-{what}-ubyte").write_bytes(content)
    ...     source = idx(place)
    >>> source.pixels[..., 0].tolist(), source.labels.tolist(), source.classes
    ([[[9, 8]], [[7, 6]]], [0, 1], ('0', '1'))
    """
    check.choice("part", part, PARTS)
    place = Path(folder).expanduser().absolute()
    files, prefix = _files(place, part, name)
    heads = {what: _header(path, what) for what, path in files.items()}
    count, *sides = heads["images"].shape
    if heads["labels"].shape != (count,):
        raise ValueError(
            f"idx: expected as many labels as images, but {files['images'].name!r} has {count:,} images and "
            f"{files['labels'].name!r} {heads['labels'].shape[0]:,} labels. Are they of one set?"
        )
    raw = _data(files["labels"], heads["labels"])
    first = _first_label(files["labels"], raw)
    pixels = _data(files["images"], heads["images"]).reshape(count, *sides, 1)
    if prefix.startswith("emnist") if transposed is None else transposed:
        pixels = pixels.swapaxes(1, 2)
    labels = raw.astype(np.int32) - first
    names = _names(place, prefix, int(labels.max()) + 1, first, classes)
    own = f"{place.name}/{prefix.rstrip('-_')}" if prefix else place.name
    return Arrays(f"idx:{own}:{part}", pixels, labels, names)


def _files(place: Path, part: str, name: str) -> tuple[dict[str, Path], str]:
    """Finds the images and the labels of a part, and what their names begin with."""
    if not place.is_dir():
        raise ValueError(f"idx: {str(place)!r} is not a folder. Pass the one that holds the files.")
    found: dict[str, dict[tuple[str, str], list[Path]]] = {}
    for path in sorted(place.iterdir()):
        match = _FILE.fullmatch(path.name)
        if match and path.is_file():
            key = ("train" if match["part"] == "train" else "test", match["what"])
            found.setdefault(match["prefix"], {}).setdefault(key, []).append(path)
    chosen = {prefix: files for prefix, files in found.items() if not name or prefix.rstrip("-_") == name.rstrip("-_")}
    if len(chosen) != 1:
        there = ", ".join(repr(prefix.rstrip("-_")) for prefix in found) or "none"
        wanted = f"the set {name!r}" if name else "the files of one set"
        raise ValueError(
            f"idx: expected {wanted} in {str(place)!r}, such as train-images-idx3-ubyte.gz, but it holds these sets: "
            f"{there}. {'Name one of them.' if found else 'Is it the right folder, and are the names as published?'}"
        )
    ((prefix, files),) = chosen.items()
    result = {}
    for what in _DIMENSIONS:
        paths = files.get((part, what), [])
        if len(paths) != 1:
            listed = " and ".join(path.name for path in paths) or "none"
            raise ValueError(
                f"idx: expected one file with the {what} of the part {part!r} in {str(place)!r}, but there is "
                f"{listed}. {'Remove all but one.' if paths else 'Copy it, under the name as published.'}"
            )
        result[what] = paths[0]
    return result, prefix


def _header(path: Path, what: str) -> _Header:
    """Reads what a file says of itself, and compares it with the size of the file where that is not compressed."""
    axes = _DIMENSIONS[what]
    size = 4 + 4 * axes
    with _opened(path) as handle:
        head = handle.read(size)
    # The first four bytes: two zeros, the type, the number of axes.
    wanted = bytes((0, 0, _UNSIGNED_BYTE, axes))
    if len(head) >= len(wanted) and not head.startswith(wanted):
        raise ValueError(
            f"idx: expected {what} as unsigned bytes with {axes} axes in {str(path)!r}, which begins "
            f"{wanted.hex(' ')}, but it begins {head[:4].hex(' ')}. Is it a file of {what}, in the format IDX?"
        )
    if len(head) < size:
        raise ValueError(f"idx: {str(path)!r} ends within its header, after {len(head)} bytes. Copy it again.")
    shape = struct.unpack(f">{axes}I", head[4:])
    if 0 in shape:
        raise ValueError(f"idx: {str(path)!r} says that it holds {list(shape)}: nothing. Copy it again.")
    there, said = path.stat().st_size, size + math.prod(shape)
    if said > there * _RATIO if _is_compressed(path) else said != there:
        raise ValueError(
            f"idx: {str(path)!r} says that it holds {list(shape)}, which takes {said:,} bytes, but it has {there:,}"
            f"{', compressed' if _is_compressed(path) else ''}. Copy it again."
        )
    if said > (free := memory.available(None)):
        raise ValueError(
            f"idx: {str(path)!r} holds {list(shape)}, {said / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB may be taken. Use "
            "a machine with more memory, or write the images to a folder, for jp.data.folder."
        )
    return _Header(shape, size)


def _data(path: Path, head: _Header) -> np.ndarray:
    """Reads as many bytes as the header says, and checks that the file ends there."""
    found = np.empty(math.prod(head.shape), np.uint8)
    view = memoryview(found)  # type: ignore[arg-type]
    with _opened(path) as handle:
        handle.read(head.size)
        done = 0
        while done < len(found):
            piece = handle.read(min(_LONGEST, len(found) - done))
            if not piece:
                raise ValueError(
                    f"idx: {str(path)!r} says that it holds {list(head.shape)}, but it ends after {done:,} of "
                    f"{len(found):,} bytes. Copy it again."
                )
            view[done : done + len(piece)] = piece
            done += len(piece)
        # Of a compressed file this also compares the checksum, which stands at its end.
        if handle.read(1):
            raise ValueError(
                f"idx: {str(path)!r} says that it holds {list(head.shape)}, but it goes on after that. Is it several "
                "files in one? Copy it again."
            )
    return found.reshape(head.shape)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, unpacked while it is read; all that can be wrong with a compressed one is said in our words."""
    try:
        with gzip.open(path) if _is_compressed(path) else path.open("rb") as handle:
            yield handle  # type: ignore[misc]
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"idx: cannot read {str(path)!r} ({error}). Is it complete? Copy it again.") from error


def _is_compressed(path: Path) -> bool:
    return path.suffix == ".gz"


def _first_label(path: Path, labels: np.ndarray) -> int:
    """Returns 0 or 1, from which labels count up without a gap."""
    first = int(labels.min())
    missing = np.setdiff1d(np.arange(first, int(labels.max()) + 1), labels)
    if first > 1 or missing.size:
        label = 0 if first > 1 else int(missing[0])
        raise ValueError(
            f"idx: expected labels that count up from 0 or 1, each with an image, but {str(path)!r} has none of the "
            f"label {label}. Is it complete? Write what has gaps as npz."
        )
    return first


def _names(place: Path, prefix: str, count: int, first: int, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Names the classes: as asked for, by the mapping of EMNIST, or by their labels."""
    if classes is not None:
        if isinstance(classes, str) or len(classes) != count or not all(isinstance(one, str) for one in classes):
            raise ValueError(
                f"classes: expected the names of the {count} classes of {str(place)!r}, but got {classes!r}."
            )
        return tuple(classes)
    mapping = place / f"{prefix}mapping.txt"
    if not prefix or not mapping.is_file():
        return tuple(str(label) for label in range(first, first + count))
    lines = mapping.read_text().split("\n")
    # A label, and the characters that it stands for, as numbers of ASCII.
    rows = [line.split() for line in lines if line.strip()]
    if not all(len(row) >= 2 and all(word.isascii() and word.isdigit() for word in row) for row in rows):
        raise ValueError(f"idx: expected lines such as '10 65' in {str(mapping)!r}, but got {lines[:3]}. Remove it.")
    found = {int(label): " ".join(chr(int(code)) for code in codes) for label, *codes in rows}
    if len(rows) != len(found) or sorted(found) != list(range(first, first + count)):
        raise ValueError(
            f"idx: expected the labels {first} to {first + count - 1} in {str(mapping)!r}, each once, but got "
            f"{sorted(found)}. Remove it, or pass classes."
        )
    return tuple(found[label] for label in sorted(found))
