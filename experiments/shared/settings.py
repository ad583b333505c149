"""Settings that every study has, and the checks that settings of several studies need."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jaxprune import check, memory


@dataclass(frozen=True)
class Execution:
    """Which seeds a study has, where it goes, and who computes what: nothing of it enters a record but the seed."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed has splits, a network and an order of the images of its own."""
    out: Path = Path("results")
    """Where records, checkpoints, tables and the page go.  What is there already is not computed again."""
    shard: str = "1/1"
    """i/n: only the i-th of n parts of the runs, for n machines whose parts are fixed in advance."""
    worker: bool = False
    """Take runs that nobody has until none is left: start as many as you like, on machines that share the folder."""
    retry: bool = False
    """Try the runs again that failed before."""
    dry_run: bool = False
    """Check every input and say what would be computed; compute nothing."""
    status: bool = False
    """List every run: done, failed, running or waiting; compute nothing."""
    compile_cache: Path | None = None
    """Keep compiled programs in this folder; processes that find theirs there, of equal versions, compile nothing."""
    profile: Path | None = None
    """Write a trace of some seconds of the second run that is done here (the first one compiles) into this folder, for
    TensorBoard or Perfetto."""
    engine: Annotated[str, tyro.conf.arg(metavar="{submitit}")] = ""
    """Have workers run as jobs: submitit, on Slurm where there is one, else on this machine."""
    workers: int = 2
    """Jobs of the engine."""
    engine_options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """Of submitit's executor, such as timeout_min=60 slurm_partition=gpu, or cluster=local."""


def listed(table: Mapping[str, Any] | Sequence[str], own: bool = False, alias: str = "") -> Any:
    """Lists the values that an option takes in its help.

    Args:
      table: the values.
      own: whether a function of the user's, "package.module:function", may stand in their place.
      alias: another name of the option.
    """
    names = [*table, *(["PACKAGE.MODULE:FUNCTION"] if own else [])]
    return tyro.conf.arg(metavar=f"{{{','.join(names)}}}", aliases=[alias] if alias else None)


def check_execution(settings: Any) -> None:
    """Finds bad values among the settings that every study has, and single values where several are expected."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(field.default, tuple) and not isinstance(value, tuple | list):
            raise ValueError(f"{field.name}: expected several values, such as {field.default!r}, but got {value!r}.")
    each_once("seeds", settings.seeds)
    for seed in settings.seeds:
        if not (isinstance(seed, int) and 0 <= seed < 2**32):
            raise ValueError(f"seeds: expected whole numbers from 0 to {2**32 - 1}, but got {seed}.")
    check.whole("workers", settings.workers)
    for name in ("compile_cache", "profile"):
        if (folder := getattr(settings, name)) is not None:
            check.writable(name, folder)
    if settings.engine:
        check.choice("engine", settings.engine, ("submitit",))
    for option in settings.engine_options:
        if "=" not in option:
            raise ValueError(f"engine_options: expected name=value, such as timeout_min=60, but got {option!r}.")


def seeds_below(settings: Any, most: int) -> None:
    """Checks that seeds are small enough for the keys that a study derives from them to differ."""
    for seed in settings.seeds:
        if seed >= most:
            raise ValueError(f"seeds: expected numbers below {most:,} in this study, but got {seed:,}.")


def each_once(name: str, values: Sequence[Any]) -> None:
    """Checks that there are one or more values, and that none repeats."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name}: expected one or more, each of them once, but got {values}.")


def positive(settings: Any, *names: str) -> None:
    """Checks that each of these settings is a finite number above 0; None is not set."""
    for name in names:
        if getattr(settings, name) is not None:
            check.positive(name, getattr(settings, name))


def fits(name: str, value: Any, make: Any, image_shape: Sequence[int]) -> None:
    """Checks that a network can be trained in memory: weights, gradients and two moments of each, in float32.

    Args:
      name: of the setting that decides its size.
      value: of that setting.
      make: the module.
      image_shape: (h, w, c).
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), "float32")
    try:
        shapes = jax.eval_shape(make.init, jax.random.key(0), image)
    except (OverflowError, TypeError, ValueError, MemoryError) as error:
        raise ValueError(f"{name}: no network of {value} can be made ({error}). Take a smaller one.") from error
    taken = 16 * sum(leaf.size for leaf in jax.tree.leaves(shapes))
    if taken > memory.available(None):
        raise ValueError(
            f"{name}: expected a network that fits into memory, but that of {value} takes {taken / 1e9:,.0f} GB with "
            f"its gradients and moments; {memory.available(None) / 1e9:,.0f} GB may be taken. Take a smaller one."
        )


def at_most_images(batch_size: int, images: int, of: str) -> None:
    """Checks that a batch is no larger than what it is cut from."""
    if batch_size > images:
        raise ValueError(f"batch_size: expected at most the {images:,} images of {of}, but got {batch_size:,}.")
