"""Preconditions of single values: numbers, choices, keys, folders."""

import difflib
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def choice(name: str, value: str, options: Iterable[str], *, ordered: bool = False) -> str:
    """Checks that ``value`` is one of ``options``; the error offers the nearest, and lists them by name.

    Where they are ``ordered`` it lists them as they come.
    """
    known = list(options) if ordered else sorted(options)
    if value in known:
        return value
    if ends := [one for one in known if one.endswith(f"/{value}")]:
        raise ValueError(f"{name}: unknown value {value!r}, which lacks its source. Write {' or '.join(ends)}.")
    near = difflib.get_close_matches(str(value), known, n=3, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    # A long list would bury the message.
    listed = known if len(known) <= 30 else [*(near or known[:3]), "..."]
    raise ValueError(f"{name}: unknown value {value!r}.{hint} Known: {', '.join(listed)}.")


def sparsity(value: float, name: str = "sparsity") -> float:
    """Checks that a sparsity lies in [0, 1)."""
    number = float(value) if is_number(value) else math.nan
    if not 0.0 <= number < 1.0:
        raise ValueError(
            f"{name}: expected a fraction in [0, 1), the share of the prunable weights that becomes zero, but got "
            f"{value!r}. To remove 90 % of the weights pass 0.9."
        )
    return number


def positive(name: str, value: float) -> None:
    """Checks that a number is finite and above zero."""
    if not (is_number(value) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number above 0, but got {value!r}.")


def are_numbers(value: Any) -> bool:
    """Whether a value is a real number, or an array or nested sequence of such.  Text and booleans are none."""
    try:
        kind = jnp.result_type(value if hasattr(value, "dtype") else np.asarray(value))
    except (TypeError, ValueError):  # text, rows of different lengths, or a number that no array has
        return isinstance(value, Real) and not isinstance(value, bool)
    return jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.floating)


def is_number(value: Any) -> bool:
    """Whether a value is one real number."""
    return are_numbers(value) and np.ndim(value) == 0


def numbers(name: str, value: Any, what: str, remedy: str) -> tuple[float, ...]:
    """Checks that a value lists real numbers (in a sequence, a vector, an iterator), and lists them as Python's.

    ``what``: what is expected, in words.
    """
    came = repr(value)
    if not is_number(value) and isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
        value = list(value)
        if all(map(is_number, value)):
            return tuple(map(float, value))
        came = f"{value!r}"
    raise TypeError(f"{name}: expected {what}, but got {came if len(came) <= 200 else came[:197] + '...'}. {remedy}")


def is_whole(value: Any) -> bool:
    """Whether a value is one whole number, of Python or NumPy."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def key(name: str, value: Any) -> None:
    """Checks that a value is one JAX PRNG key, typed or as two or four words."""
    kind, shape = getattr(value, "dtype", None), np.shape(value) if hasattr(value, "dtype") else None
    typed = kind is not None and jnp.issubdtype(kind, jax.dtypes.prng_key)
    if not (typed and shape == ()) and not (kind == np.uint32 and shape in ((2,), (4,))):
        came = repr(value) if kind is None else f"{kind}{list(shape or ())}"
        raise TypeError(f"{name}: expected one JAX PRNG key, such as jax.random.key(0), but got {came}.")


def whole(name: str, value: Any, least: int = 1) -> int:
    """Checks that a number is whole and not below ``least``."""
    if not is_whole(value) or value < least:
        raise ValueError(f"{name}: expected a whole number of {least} or more, but got {value!r}.")
    return int(value)


def within(name: str, low: Any, high: Any, bounds: tuple[float, float], remedy: str) -> None:
    """Checks that the lowest and the highest of some numbers lie in ``bounds``; NaN does not.

    They are shown with all their digits: 1.0000001 is not 1.  What is outside by no more than rounding is to be
    clipped, and whatever else the remedy says would be wrong.
    """
    least, most = bounds
    if low >= least and high <= most:
        return
    rounding = max(least - low, high - most) <= 1e-3 * (most - least)
    found = ", ".join(str(end).removesuffix(".0") for end in (low, high))
    raise ValueError(
        f"{name}: expected numbers in [{least:g}, {most:g}], but they lie in [{found}]. "
        + (f"That is no more than rounding: np.clip(values, {least:g}, {most:g})." if rounding else remedy)
    )


def writable(name: str, folder: str | os.PathLike[str]) -> Path:
    """Makes the folder where it is missing, and checks that a file can be written there."""
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"{name}: expected the path of a folder, but got {folder!r}. Pass a text or a pathlib.Path.")
    # A Path has lost one of the two slashes.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(folder)):
        raise ValueError(
            f"{name}: expected a folder on a local disk or on NFS, but got {os.fspath(folder)!r}: locks and hard links "
            "keep processes apart, and a bucket has neither. Choose such a folder, and copy it later."
        )
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"{name}: cannot write in {str(path)!r} ({error.strerror or error}). Choose a folder that you may write to."
        ) from error
    return path
