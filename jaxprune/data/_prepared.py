"""A split of a prepared TensorFlow data set: found, found complete, and read record by record without TensorFlow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprune import check
from jaxprune.data.tfrecord import Records

_METADATA = "dataset_info.json"


class Prepared(NamedTuple):
    """A split that is there as a whole.

    Attributes:
      name: of the data set, without version and folder.
      features: of TFDS: the names and types of what an example has.
      records: a sequence of serialised examples; of a mocked set None.
      length: how many examples there are.
      folder: where the files lie; files: those of the split, relative to it.
      mocked: decoded examples, of a mocked set.
    """

    name: str
    features: Any
    records: Any
    length: int
    folder: Path
    files: tuple[str, ...]
    mocked: Sequence[Any] = ()

    def part(self, index: int, feature: str) -> Any:
        """Returns one feature of an example, not decoded: an image as the bytes of its file."""
        if self.records is None:
            return self.mocked[index][feature]
        from tensorflow_datasets.core.example_parser import ExampleParserNp

        wanted = {feature: self.features.get_serialized_info()[feature]}
        return ExampleParserNp(wanted).parse_example(self.records[index])[feature]

    def decoded(self, index: int, feature: str) -> Any:
        """Returns one feature of an example, decoded as TFDS does it."""
        found = self.part(index, feature)
        return found if self.records is None else self.features[feature].decode_example_np(found)


class _Chosen(Sequence[Any]):
    """Some of the records, in an order of their own."""

    def __init__(self, records: Records, places: np.ndarray) -> None:
        self._records, self._places = records, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        return self._records[int(self._places[index])]


def prepared(name: str, split: str, folder: str | Path | None) -> Prepared:
    """Opens a split; see ``jp.data.tfds`` for the arguments and the errors."""
    said = f"tfds:{name}"
    with _opening(name, split):
        builder = _builder(name, folder)
        info = builder.info
        if not info.splits:
            return _without_files(builder, name, split)
        kind = _format(builder, said)
    instructions, paths = _instructions(info.splits, split, said)
    _demand_files(paths, said)
    if not instructions:
        raise ValueError(f"data: split {split!r} of {said} has no example. Choose another.")
    _demand_once(instructions, split, said)
    if kind == "tfrecord":
        records = _of_tfrecord(instructions, said, split)
    else:
        with _opening(name, split):
            records = _of_array_record(builder, instructions, said, split)
    base = Path(builder.data_path)
    files = tuple(path.relative_to(base).as_posix() for path in paths)
    return Prepared(info.name, info.features, records, len(records), base, files)


def _instructions(splits: Any, split: str, said: str) -> tuple[Sequence[Any], list[Path]]:
    """Finds which records of which files a split has, and all files of the splits that it is made of."""
    whole = {part.split("[")[0].strip() for part in split.split("+")}
    try:
        return splits[split].file_instructions, sorted(
            {Path(path) for each in whole for path in splits[each].filepaths}
        )
    # The reader of TFDS raises many kinds of errors: for names, for slices, for what it can't parse.
    except Exception as error:
        there = ", ".join(f"{name} ({each.num_examples} examples)" for name, each in splits.items())
        raise ValueError(
            f"split: cannot take {split!r} of {said} ({str(error).splitlines()[0]}). There are: {there}; parts of them "
            "are written as in 'train[:10%]' or 'train[5:8]+test'."
        ) from error


def _demand_once(instructions: Sequence[Any], split: str, said: str) -> None:
    """Checks that no record is read twice: it would be in two parts of a later split, and count twice in every mean."""
    ends: dict[str, int] = {}
    repeated = 0
    for each in sorted(instructions, key=lambda each: (str(each.filename), each.skip)):
        end = ends.get(str(each.filename), 0)
        repeated += max(0, min(end, each.skip + each.take) - each.skip)
        ends[str(each.filename)] = max(end, each.skip + each.take)
    if repeated:
        raise ValueError(
            f"split: expected every example once, but {split!r} reads {repeated} of {said} more than once. Take every "
            "split once, and slices that do not overlap."
        )


class _Refused(ValueError):
    """An error that says everything already."""


@contextmanager
def _opening(name: str, split: str) -> Iterator[None]:
    """TFDS and its readers raise many kinds of errors, and each of them means the same to the user."""
    import tensorflow_datasets

    base = _base(name)
    try:
        yield
    except _Refused:
        raise
    except ImportError as error:
        raise ValueError(f"data: reading tfds:{name} needs a package that is not installed: {error}") from error
    except Exception as error:
        if isinstance(error, tensorflow_datasets.core.DatasetNotFoundError):
            check.choice("data: tfds", base, tensorflow_datasets.list_builders(with_community_datasets=False))
        raise ValueError(f"data: cannot open tfds:{name}, split {split!r}: {error} {_prepare(name)}") from error


def _without_files(builder: Any, name: str, split: str) -> Prepared:
    """Opens a mocked set; any other without files was not prepared."""
    try:
        examples = builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise _Refused(
            f"data: cannot open tfds:{name}, split {split!r}: nothing lies in {str(builder.data_path)!r}. "
            f"{_prepare(name)}"
        ) from error
    folder = Path(builder.data_path)
    return Prepared(builder.info.name, builder.info.features, None, len(examples), folder, (), examples)


def _prepare(name: str) -> str:
    return (
        f"Prepare it once, on a machine with TensorFlow, by `tfds build {_base(name)} --file_format=array_record`, and "
        "pass its folder."
    )


def _base(name: str) -> str:
    return name.split(":")[0].split("/")[0]


def _builder(name: str, folder: str | Path | None) -> Any:
    """Makes the builder of a set: from a folder of one version, or of sets; its files need not be there."""
    import tensorflow_datasets
    from tensorflow_datasets.core import constants

    root = Path(constants.DATA_DIR if folder is None else folder).expanduser()
    if folder is not None and (root / _METADATA).is_file():
        builder = tensorflow_datasets.builder_from_directory(root)
        if builder.info.name != _base(name):
            raise _Refused(
                f"data: expected the data set {_base(name)!r} in {str(root)!r}, but it is {builder.info.name!r}. Pass "
                "that name."
            )
        return builder
    if unfinished := sorted(root.glob(f"{_base(name)}/**/incomplete.*")):
        done = [path for path in (root / _base(name)).rglob(_METADATA) if not set(unfinished) & set(path.parents)]
        if not done:
            raise _Refused(
                f"data: tfds:{name} has been begun in {str(unfinished[0])!r}, and never finished. Prepare it again."
            )
    builder = tensorflow_datasets.builder(name, data_dir=None if folder is None else str(folder))
    if not builder.info.splits and Path(builder.data_path).is_dir():
        raise _Refused(
            f"data: {str(builder.data_path)!r} has no {_METADATA}, or one without splits: tfds:{name} is incomplete. "
            "Prepare it again."
        )
    return builder


def _format(builder: Any, said: str) -> str:
    """Returns the format that is read: "array_record" where it is there, else "tfrecord"."""
    there = {each.value for each in builder.info.available_file_formats()}
    for kind in ("array_record", "tfrecord"):
        if kind in there:
            if builder.info.file_format.value != kind:
                builder.info.set_file_format(kind, override=True, override_if_initialized=True)
            return kind
    why = " The writer of TFDS loses rows there." if "parquet" in there else ""
    raise _Refused(
        f"data: {said} is prepared as {', '.join(sorted(there))}, and only array_record and tfrecord are read.{why} "
        f"Prepare it again, by `tfds build {builder.info.name} --file_format=array_record`."
    )


def _demand_files(paths: Sequence[Path], said: str) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"data: {len(missing)} of {len(paths)} files of {said} are missing, the first {str(missing[0])!r}. Copy "
            "them, or prepare it again."
        )


def _of_tfrecord(instructions: Sequence[Any], said: str, split: str) -> _Chosen:
    try:
        records = Records([Path(each.filename) for each in instructions])
    except ValueError as error:
        raise ValueError(f"data: {said}: {error}") from error
    _demand_counts(instructions, records.counts, said, split)
    firsts = np.cumsum([0, *records.counts[:-1]])
    places = [first + each.skip + np.arange(each.take) for first, each in zip(firsts, instructions, strict=True)]
    return _Chosen(records, np.concatenate(places))


def _of_array_record(builder: Any, instructions: Sequence[Any], said: str, split: str) -> Any:
    import tensorflow_datasets
    from array_record.python import array_record_module  # type: ignore[attr-defined]  # not on every platform

    counts = []
    for each in instructions:
        reader = array_record_module.ArrayRecordReader(str(each.filename))
        counts.append(reader.num_records())
        if not reader.ok():
            raise ValueError(f"{each.filename} is damaged.")
        reader.close()
    _demand_counts(instructions, counts, said, split)
    raw = tensorflow_datasets.decode.DeserializeMethod.RAW_BYTES
    return builder.as_data_source(split=split, deserialize_method=raw)


def _demand_counts(instructions: Sequence[Any], counts: Sequence[int], said: str, split: str) -> None:
    """Checks that the files have as many records as the metadata says."""
    claimed, found = sum(each.examples_in_shard for each in instructions), sum(counts)
    wrong = [each.filename for each, there in zip(instructions, counts, strict=True) if each.examples_in_shard != there]
    if wrong:
        raise _Refused(
            f"data: split {split!r} of {said} should have {claimed} examples by its metadata, but {found} are there; "
            f"the first file that differs is {str(wrong[0])!r}. Prepare it again."
        )
