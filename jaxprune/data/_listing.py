"""What counts as data in a folder: one list of suffixes, and what is never data, for everything that lists files."""

from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of images, in any case."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no data, whatever its suffix: what systems, archivers and notebooks leave behind.

    >>> [is_hidden(name) for name in ("._cat.jpg", ".ipynb_checkpoints", "__MACOSX", "cat.jpg")]
    [True, True, True, False]
    """
    return name.startswith(".") or name == "__MACOSX"


def is_picture(name: str) -> bool:
    """Whether a file is called as an image is, and not hidden.

    >>> [is_picture(name) for name in ("cat.JPG", "cat.txt", ".cat.jpg")]
    [True, False, False]
    """
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


def by_stem(folder: Path) -> dict[str, list[Path]]:
    """Lists the images that lie in a folder by their names without suffix, sorted."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if is_picture(path.name):
            found.setdefault(path.stem, []).append(path)
    return found


def only(paths: list[Path], shared: str) -> Path:
    """Returns the one image of a name; several would share what belongs to it.

    Raises:
      ValueError: there are several.
    """
    if len(paths) > 1:
        raise ValueError(
            f"folder: {str(paths[0].parent)!r} has more than one image {paths[0].stem!r} "
            f"({', '.join(path.name for path in paths)}), and they would share {shared}. Rename all but one, and give "
            "each its own."
        )
    return paths[0]
