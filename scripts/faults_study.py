"""Faults of whole studies: runs that fail, and jobs that are killed."""

import contextlib
import dataclasses
import io
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402

from experiments.shared.results import Claim, Results, above_zero, case  # noqa: E402
from experiments.shared.settings import Execution  # noqa: E402
from experiments.shared.study import FAILED_RUNS, Study, _begin, _carry_out  # noqa: E402
from jaxprune import report  # noqa: E402


@dataclass(frozen=True)
class Run:
    """A run that waits, fails or is killed."""

    seed: int
    number: int


@dataclass(frozen=True)
class Settings(Execution):
    """What goes wrong."""

    failing: tuple[int, ...] = ()
    """Seeds whose first run fails."""
    killing: bool = False
    """Whether the first process that does the first run is killed by it."""
    seconds: float = 0.0
    """That a run takes."""


@dataclass(frozen=True)
class Inputs:
    """Nothing is opened."""

    settings: Settings
    fingerprint: str = "none"


def _measure(settings: Settings, run: Run) -> dict[str, float]:
    time.sleep(settings.seconds)
    first = run.number == 0
    if first and run.seed in settings.failing:
        raise FloatingPointError("broken on purpose")
    if settings.killing and first and run.seed == 0:
        with contextlib.suppress(FileExistsError):
            (settings.out / "killed").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
    return {"value": run.seed + run.number + 1.0}


def _claims(settings: Settings) -> list[Claim]:
    def cases(results: Results) -> Any:
        for number in results.values("number"):
            yield case({"number": number}, [metrics["value"] for metrics in results.of(number=number)])

    return [Claim("positive", "a value above 0", cases, above_zero, "1")]


STUDY = Study(
    "faults",
    Inputs,
    lambda settings, inputs: [Run(seed, number) for seed in settings.seeds for number in range(4)],
    lambda run: run.seed,
    lambda settings, inputs, seed: settings,
    _measure,
    _claims,
    lambda settings, results, tested: report.Page("Faults", "Runs that wait, fail or are killed."),
)


def failures(folder: Path, row: Any) -> None:
    """F7: 3 of 40 runs fail; the others are done, and the 3 are tried again."""
    settings = Settings(seeds=tuple(range(10)), out=folder, failing=(2, 5, 7))
    console = Console(file=io.StringIO())
    plan = _begin(STUDY, settings)
    outcome = _carry_out(plan, console)
    row.count("records", plan.done(), least=37, most=37)
    found = plan.store.failures(plan.runs)
    row.count("tracebacks", sum("broken on purpose" in one["traceback"] for _, one in found), least=3, most=3)
    row.count("named", sum(f"seed {seed}: F" in outcome.path.read_text() for seed in (2, 5, 7)), least=3)
    row.count("code", FAILED_RUNS if outcome.failed else 0, least=3, most=3)
    again = _begin(STUDY, dataclasses.replace(settings, failing=(), retry=True))
    before = {path: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}
    retried = _carry_out(again, console)
    after = {path: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}
    row.count("retried", len(after) - len(before), least=3, most=3)
    row.count("again", sum(after[path] != stamp for path, stamp in before.items()), most=0)
    row.count("failed", retried.failed, most=0)


def jobs(folder: Path, row: Any, small: bool) -> None:
    """Submitit: 40 runs by 4 jobs, of which one is killed in the middle of a run."""
    seeds = 1 if small else 10
    settings = Settings(seeds=tuple(range(seeds)), out=folder, killing=True, seconds=0.0 if small else 0.1)
    engine = {"engine": "submitit", "workers": 1 if small else 4, "engine_options": ("cluster=local",)}
    plan = _begin(STUDY, dataclasses.replace(settings, **engine))
    # Jobs import this module by its name.
    places = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    with mock.patch.dict(os.environ, PYTHONPATH=places), contextlib.redirect_stderr(io.StringIO()):
        outcome = _carry_out(plan, Console(file=io.StringIO()))
    row.count("records", plan.done(), least=4 * seeds, most=4 * seeds)
    row.count("killed", int((folder / "killed").exists()), least=1)
    row.count("failed", outcome.failed, most=0)
