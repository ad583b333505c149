"""Faults of whole studies and trainings: runs that fail, jobs that are killed, two writers of one folder."""

import contextlib
import dataclasses
import io
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402

import jaxprune as jp  # noqa: E402
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
    row.count("named", sum(f"seed {seed}  number 0: F" in outcome.path.read_text() for seed in (2, 5, 7)), least=3)
    row.count("code", FAILED_RUNS if outcome.failed else 0, least=3, most=3)
    again = _begin(STUDY, dataclasses.replace(settings, failing=(), retry=True))
    before = {path: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}
    retried = _carry_out(again, console)
    after = {path: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}
    row.count("retried", len(after) - len(before), least=3, most=3)
    row.count("again", sum(after[path] != stamp for path, stamp in before.items()), most=0)
    row.count("failed", retried.failed, most=0)


_FIRST = """
import sys, time
import numpy as np, optax
import jaxprune as jp

net = jp.Network(lambda params, state, images: images @ params["w"], {"w": np.ones((2, 2), np.float32)})
data = {"image": np.ones((4, 2), np.float32), "label": np.array([0, 1, 0, 1])}

def log(step, numbers):
    print("training", flush=True)
    time.sleep(1000)

jp.train.fit(net, jp.losses.cross_entropy, optax.sgd(0.1), data, steps=9, batch_size=2, seed=0, folder=sys.argv[1],
             log=log if sys.argv[2:] else None, log_every=1)
"""


def writers(folder: Path, row: Any, small: bool) -> None:
    """F18: a second training in a folder is refused at once, by the number and host of the first; a dead one is not."""
    words = [sys.executable, "-c", _FIRST, str(folder)]
    with subprocess.Popen([*words, "wait"], cwd=ROOT, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        row.count("held", int(first.stdout.readline() == b"training\n"), least=1)
        begin, said = time.perf_counter(), ""
        try:
            jp.checkpoint.save(folder, 1, {"w": np.ones(2)})
        except ValueError as error:
            said = str(error)
        # In the tests no time is asserted.
        row.count("refusal_s", round(time.perf_counter() - begin, 4), most=math.inf if small else 1.0)
        row.count("named", int(f"process {first.pid} on " in said), least=1)
        if not small:
            second = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=False)
            row.count("refused", int(f"process {first.pid} on " in second.stderr), least=1)
        first.kill()
    if small:
        row.count("goes_on", jp.checkpoint.save(folder, 1, {"w": np.ones(2)}).exists(), least=1)
    else:
        after = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=False)
        row.count("goes_on", int(after.returncode == 0), least=1)
    row.count("leftovers", sum(path.name.startswith((".tmp-", ".writer")) for path in folder.iterdir()), most=0)


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
