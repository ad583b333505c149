"""Trials: who answered what to which image, in the CSV format in which the field shares them.

A file has one row for each trial, under the header ``COLUMNS``, and is called ``<dataset>_<subject>_session_1.csv``.
What is read is kept as it was written: a condition "0.90" stays "0.90".  Only comparisons know that it is "0.9".
"""

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune import check, files

COLUMNS: tuple[str, ...] = ("subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename")
"""The header of a file.  "Session" is read as "session", the order is free, and further columns are not kept."""

_MISSING = ("", "na", "nan")
_NAME = re.compile(r"(?P<dataset>[^_]+)_.+_session[-_]\d+\.csv")


@dataclass(frozen=True, eq=False)
class Trials:
    """n trials: for every column an array of n strings, as they stand in the file.

    Attributes:
      dataset: of the file, from its name.
      subj: who answered; people are called "subject-01" and so on.
      session: a whole number.
      trial: a whole number.
      rt: the reaction time in seconds, or "NaN".
      object_response: the answer; "na" where there was none.
      category: the right answer.
      condition: the level of the distortion.
      imagename: the file that was shown.

    Raises:
      ValueError: arrays that are not of strings, or not of one length.
    """

    dataset: np.ndarray
    subj: np.ndarray
    session: np.ndarray
    trial: np.ndarray
    rt: np.ndarray
    object_response: np.ndarray
    category: np.ndarray
    condition: np.ndarray
    imagename: np.ndarray

    def __post_init__(self) -> None:
        for name in _FIELDS:
            column = getattr(self, name)
            if column.dtype.kind != "U" or column.shape != (len(self),):
                raise ValueError(
                    f"{name}: expected strings [n] = ({len(self)},) as in the other columns, but got {column.dtype} of "
                    f"shape {column.shape}. make_trials makes the columns from a network's answers."
                )

    def __len__(self) -> int:
        return self.dataset.size

    @property
    def correct(self) -> np.ndarray:
        """Which answers are right, bool [n]; a missing answer is wrong."""
        given = np.array([not is_missing(answer) for answer in self.object_response.tolist()], bool)
        return (self.object_response == self.category) & given

    @property
    def image(self) -> np.ndarray:
        """What identifies the image behind each file name, [n]."""
        return _strings(image_id(name) for name in self.imagename.tolist())

    def where(self, rows: Any) -> "Trials":
        """Returns some of the trials: bool [n], or indices."""
        return Trials(**{name: getattr(self, name)[np.asarray(rows)] for name in _FIELDS})

    def of(self, subject: str) -> "Trials":
        """Returns the trials of one subject; the error lists who there is."""
        check.choice("subject", subject, self.subjects)
        return self.where(self.subj == subject)

    def humans(self) -> "Trials":
        """Returns the trials of people: of everybody whose name begins with "subject-", as the field has it."""
        return self.where(np.char.startswith(self.subj, "subject-"))

    @property
    def subjects(self) -> tuple[str, ...]:
        """Who answered, sorted."""
        return tuple(sorted(set(self.subj.tolist())))

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets, sorted."""
        return tuple(sorted(set(self.dataset.tolist())))


_FIELDS = tuple(field.name for field in fields(Trials))

_EXPECTED = {
    "object_response": "the answer to each image, strings [n]",
    "category": "the right answer to each image, strings [n]",
    "imagename": "the name of each image, strings [n]",
    "condition": "a string for all trials, or one for each, strings [n]",
}


def make_trials(
    subject: str,
    object_response: Sequence[str] | np.ndarray,
    category: Sequence[str] | np.ndarray,
    imagename: Sequence[str] | np.ndarray,
    *,
    condition: str | Sequence[str] | np.ndarray = "NaN",
    dataset: str = "",
    session: int = 1,
) -> Trials:
    """Makes the trials of a network, or of a simulated observer, from its answers.

    Args:
      subject: what the network is called.
      object_response: its answers, names of categories [n].
      category: the right answers [n].
      imagename: what the images are called [n]; their ``image_id`` pairs them with other subjects' trials.
      condition: of all trials, or of each [n].
      dataset: of all trials.
      session: of all trials.

    Returns:
      Trials, numbered from 1, without reaction times.

    Raises:
      ValueError: columns of different lengths.
      TypeError: a column that is a single string, or no sequence.

    >>> made = make_trials("dense", ["dog", "na"], ["dog", "cat"], ["dog1.png", "cat1.png"], condition="0.90")
    >>> made.correct
    array([ True, False])
    """
    named = {"object_response": object_response, "category": category, "imagename": imagename}
    for name, column in (named | {"condition": [] if isinstance(condition, str) else condition}).items():
        if isinstance(column, str) or np.ndim(column) != 1:
            raise TypeError(
                f"{name}: expected {_EXPECTED[name]}, but got {column!r}. A single trial needs a list too: ['dog']."
            )
    n = len(object_response)
    everywhere = {"dataset": dataset, "subj": subject, "session": session, "rt": "NaN"}
    each = {
        "trial": range(1, n + 1),
        "condition": [condition] * n if isinstance(condition, str) else condition,
    }
    return Trials(**{name: _strings([value] * n) for name, value in everywhere.items()} | _columns(named | each))


def image_id(imagename: str) -> str:
    """Says which image a file shows: its name without what the experiment put before it.

    That is what stands behind the last "_", or behind the last but one where the name ends in an ImageNet file's.

    >>> image_id("0001_cl1_s01_bw_boat_40_n02951358_5952.png"), image_id("0007_edg_s04_0_boat_00_boat10.png")
    ('n02951358_5952.png', 'boat10.png')
    """
    parts = imagename.split("_")
    return "_".join(parts[-2:]) if len(parts) > 1 and re.fullmatch(r"n\d+", parts[-2]) else parts[-1]


def condition_key(condition: str) -> str:
    """Returns what equal conditions share, however they are spelt: numbers by value, words without capitals.

    >>> condition_key("0.90") == condition_key("0.9"), condition_key("true") == condition_key("True")
    (True, True)
    """
    word = condition.strip().lower()
    return str(float(word)) if re.fullmatch(r"\d*\.?\d+|\d+\.|inf", word) else word


def is_missing(answer: str) -> bool:
    """Says whether a subject gave no answer: "na", "NaN" or nothing."""
    return answer.strip().lower() in _MISSING


def read_trials(path: str | os.PathLike[str], *, dataset: str | None = None) -> Trials:
    """Reads trials from a CSV file, or from all CSV files in a folder and the folders in it.

    Args:
      path: the file, or the folder.
      dataset: what the data set is called.  None: what stands before the first "_" of a name such as
        "edge_subject-01_session_1.csv", or else the folder of the file.

    Returns:
      The trials in the order of the files' names.

    Raises:
      ValueError: there is no such file, or none in the folder; a column is missing; a row does not parse.  The message
        names the file and the line.

    Source: the format and the rules of pairing are those of github.com/bethgelab/model-vs-human (MIT); Geirhos et al.
    (2021), arXiv 2106.07411.

    >>> import tempfile
    >>> made = make_trials("dense", ["dog"], ["dog"], ["dog1.png"], condition="0.90", dataset="uniform-noise")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_trials(made, folder)
    ...     read_trials(folder).condition.tolist()
    ['0.90']
    """
    path = Path(path)
    shown = (file for file in path.rglob("*.csv") if "/." not in f"/{file.relative_to(path).as_posix()}")
    found = sorted(shown) if path.is_dir() else [path]  # systems leave such behind, as in __MACOSX
    if not found or not found[0].is_file():
        raise ValueError(
            f"path: expected a CSV file, or a folder with some, but {str(path)!r} "
            f"{'has none' if path.is_dir() else 'does not exist'}. The trials of people are in the folder raw-data of "
            "github.com/bethgelab/model-vs-human."
        )
    sets = sorted({_dataset(file) for file in found})
    if dataset is not None and len(sets) > 1:
        raise ValueError(
            f"dataset: one name for the files of {sets} would mix them. Read one folder, or keep those of a set later: "
            "trials.where(trials.dataset == name)."
        )
    columns: dict[str, list[str]] = {name: [] for name in _FIELDS}
    for file in found:
        rows = list(_rows(file))
        if not rows:
            raise ValueError(
                f"{str(file)!r}: expected one row or more under the header, but got none. Remove the file."
            )
        columns["dataset"] += [_dataset(file) if dataset is None else dataset] * len(rows)
        for name in COLUMNS:
            columns[name] += [row[name] for row in rows]
    return Trials(**_columns(columns))


def write_trials(trials: Trials, path: str | os.PathLike[str]) -> list[Path]:
    """Writes trials in the field's CSV format.

    Args:
      trials: what ``read_trials`` gives or ``make_trials`` makes.
      path: a file whose name ends in ".csv", for all of them; or a folder, in which every data set gets a folder, and
        there every session of a subject the file "<dataset>_<subject>_session_<session>.csv".

    Returns:
      The files written.  Each appears complete or not at all.

    Raises:
      ValueError: a data set without a name; two subjects that would share a file; a folder that cannot be written.

    >>> import tempfile
    >>> made = make_trials("dense", ["dog"], ["dog"], ["dog1.png"], dataset="edge")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [file.relative_to(folder).as_posix() for file in write_trials(made, folder)]
    ['edge/edge_dense_session_1.csv']
    """
    path = Path(path)
    if path.suffix == ".csv":
        check.writable("path", path.parent)
        files.write(path, _text(trials))
        return [path]
    if "" in trials.datasets:
        raise ValueError("trials: expected named data sets, but one is ''. Pass make_trials the name: dataset='edge'.")
    groups: dict[Path, set[tuple[str, str, str]]] = {}
    for entry in set(zip(trials.dataset.tolist(), trials.subj.tolist(), trials.session.tolist(), strict=True)):
        name, subject, session = (re.sub(r"[^\w.-]|_", "-", part) for part in entry)
        groups.setdefault(path / name / f"{name}_{subject}_session_{session}.csv", set()).add(entry)
    for file, entries in groups.items():
        if len(entries) > 1:
            raise ValueError(
                f"trials: expected names that differ in a file's name, but {sorted(entries)} would all be "
                f"{file.name!r}. Rename the subjects: in names of files all but letters, digits and dots becomes '-'."
            )
    for file, ((name, subject, session),) in sorted(groups.items()):
        check.writable("path", file.parent)
        rows = (trials.dataset == name) & (trials.subj == subject) & (trials.session == session)
        files.write(file, _text(trials.where(rows)))
    return sorted(groups)


def _strings(values: Iterable[Any]) -> np.ndarray:
    return np.array([str(value) for value in values], dtype=str)


def _columns(values: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: _strings(column) for name, column in values.items()}


def _dataset(file: Path) -> str:
    match = _NAME.fullmatch(file.name)
    return match["dataset"] if match else file.absolute().parent.name


def _text(trials: Trials) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(zip(*(getattr(trials, name).tolist() for name in COLUMNS), strict=True))
    return text.getvalue()


def _rows(file: Path) -> Iterator[dict[str, str]]:
    """Reads the rows of a file, each checked."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            _check_header(file, header)
            for row in reader:
                if row:  # a blank line is nothing
                    _check_row(file, reader.line_num, header, row)
                    yield {name: row[header.index(name)] for name in COLUMNS}
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{str(file)!r}: expected a CSV file in UTF-8, but it does not parse ({error}). Save it again as "
            "comma-separated text."
        ) from error


def _check_header(file: Path, header: list[str]) -> None:
    wrong = [name for name in COLUMNS if header.count(name) != 1]
    if wrong:
        raise ValueError(
            f"{str(file)!r}, line 1: expected the columns {','.join(COLUMNS)}, each once, but {', '.join(wrong)} "
            f"{'is' if len(wrong) == 1 else 'are'} missing or there twice: {','.join(header)}."
        )


def _check_row(file: Path, line: int, header: list[str], row: list[str]) -> None:
    where = f"{str(file)!r}, line {line}"
    if len(row) != len(header):
        raise ValueError(
            f"{where}: expected {len(header)} fields ({','.join(header)}), but got {len(row)}: {','.join(row)!r}. A "
            "field that holds a comma stands in quotation marks."
        )
    cells = dict(zip(header, row, strict=True))
    for name in ("session", "trial"):
        if not re.fullmatch(r"\d+", cells[name].strip()):
            raise ValueError(f"{where}: {name}: expected a whole number, but got {cells[name]!r}.")
    if not (is_missing(cells["rt"]) or re.fullmatch(r"[+-]?\d*\.?\d+([eE][+-]?\d+)?", cells["rt"].strip())):
        raise ValueError(f"{where}: rt: expected seconds, or NaN where there was no answer, but got {cells['rt']!r}.")
    for name in ("subj", "category", "imagename"):
        if is_missing(cells[name]):
            raise ValueError(
                f"{where}: {name}: expected a name, but got {cells[name]!r}. Only answers, times and conditions may be "
                "missing."
            )
