"""What images serve: to make a ladder of pruned networks, to certify it, or to be reported on; never two of these."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprune.check.trees import kind_of

_PHRASES = {"certified": "certify", "made": "made the ladder as", "reported": "are reported as"}


def demand_disjoint(certified: Mapping[str, Any], made: Mapping[str, Any], reported: Mapping[str, Any]) -> None:
    """Checks that no image both made a ladder and certifies it, or is reported on beside either.

    A study asks this before it computes anything.  Images of one kind may serve several purposes of that kind, and
    several tasks may be certified on the same images.

    Args:
      certified: task -> the images that certify it, integers or strings [n].
      made: purpose -> the images that served it: all that the dense network, its heads, the scores, the updates and the
        training of the ladder have seen, and those on which anything was chosen.  Empty: there were none.
      reported: what is reported -> its images.  Empty: nothing is, beside the certificate.

    Raises:
      ValueError: an image in two of the three; the message names both parts, and some of the images.
      TypeError: something else than a dictionary.

    >>> demand_disjoint({"5-9": [4, 5]}, made={"scoring": [1, 2, 3]}, reported={"test": [6, 7]})
    >>> demand_disjoint({"5-9": [4, 5]}, made={"scoring": [1, 2, 5]}, reported={})
    Traceback (most recent call last):
    ValueError: made: expected images that serve nothing else, but 1 of the 2 that certify '5-9' also made the ladder as
    'scoring': 5. Split anew, as by jp.data.split, so that every image serves one purpose.
    """
    listed = {"certified": certified, "made": made, "reported": reported}
    for name, parts in listed.items():
        if not isinstance(parts, Mapping):
            raise TypeError(
                f"{name}: expected a dictionary, name -> numbers of images, but got {kind_of(parts)}. Name what "
                f"they served: {{'scoring': numbers}}."
            )
    known = {
        name: {part: identities(f"{name}: {part}", found) for part, found in parts.items()}
        for name, parts in listed.items()
    }
    kinds = {found.dtype.kind in "iu" for parts in known.values() for found in parts.values() if found.size}
    if len(kinds) > 1:
        raise ValueError(
            "images: expected integers everywhere or strings everywhere, by which equal images are known, but got both."
        )
    for first, second in (("certified", "made"), ("certified", "reported"), ("reported", "made")):
        for mine, images in known[first].items():
            for yours, others in known[second].items():
                _demand_apart(second, f"{_PHRASES[first]} {mine!r}", images, f"{_PHRASES[second]} {yours!r}", others)


def identities(name: str, images: Any) -> np.ndarray:
    """Checks that images are told by integers or strings, [n], and returns them as an array."""
    found = np.asarray(images)
    if found.ndim == 1 and not found.size:
        return found.astype(np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iuU":
        raise ValueError(
            f"{name}: expected the numbers (or names) of images, integers or strings [n], but got {found.dtype}"
            f"{list(found.shape)}. Of a mask take numpy.flatnonzero(mask)."
        )
    return found


def _demand_apart(name: str, ours: str, images: np.ndarray, theirs: str, others: np.ndarray) -> None:
    both = np.intersect1d(images, others) if images.size and others.size else images[:0]
    if both.size:
        some = ", ".join(map(str, both[:5].tolist())) + (", ..." if both.size > 5 else "")
        raise ValueError(
            f"{name}: expected images that serve nothing else, but {both.size} of the {len(images)} that {ours} also "
            f"{theirs}: {some}. Split anew, as by jp.data.split, so that every image serves one purpose."
        )
