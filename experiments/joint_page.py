"""The page of the study."""

from pathlib import Path
from typing import Any


def write(study: Any, records: Any, console: Any) -> Path:
    """Writes the page."""
    del records, console
    (study.out / "index.html").write_text("")
    return study.out / "index.html"
