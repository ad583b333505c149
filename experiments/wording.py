"""How the pages of all studies say things."""

from collections.abc import Sequence
from typing import Any

TONES = {"holds": "good", "does not hold": "bad", "undecided": "unsure", "undecided (floor)": "none"}
"""The tone of a cell for each verdict."""
MARKS = {"holds": "holds", "does not hold": "no", "undecided": "undecided", "undecided (floor)": "floor"}
"""What a cell says for each verdict."""
DATA = {"digits": "handwritten digits", "shapes": "painted shapes with textures"}
"""What bundled data are called in a sentence."""


def percent(share: Any) -> str:
    """Writes a share in percent, three digits of it.

    >>> percent(0.1234)
    '12.3 %'
    """
    return f"{100 * share:.3g} %"


def counted(count: int, word: str) -> str:
    """Says how many there are of something.

    >>> counted(1, "seed"), counted(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def joined(words: Sequence[str]) -> str:
    """Lists words in a sentence.

    >>> joined(["a", "b", "c"])
    'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def provenance(records: Sequence[dict[str, Any]], counting: str = "without pretraining and scoring") -> str:
    """Says how many runs there were, how long they took (``counting`` what), where, and with which versions."""
    place = records[0]["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in place["packages"].items())
    return (
        f"{len(records)} runs, {sum(one['provenance']['seconds'] for one in records) / 60:.1f} minutes {counting}, "
        f"on {', '.join(sorted(set(place['devices'])))}. {versions}; Python "
        f"{place['python']}; commit {place['commit'][:12]}."
    )
