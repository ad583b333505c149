"""What every study owes: equal records whether it ran whole, was killed before every training, or ran in shards;
nothing computed twice; damage named.

A study is made in a process of its own that compiles in haste, because compiling takes most of the time.
"""

import dataclasses
import importlib
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import jaxprune as jp
from experiments import load
from experiments.shared.check_page import check
from experiments.shared.results import COLUMNS
from experiments.shared.study import command, run
from jaxprune.report import Page
from tests import haste

ROOT = Path(__file__).parents[2]

# Makes the study whole; and, shard by shard, killed before every one of its trainings.
RUN = """
import gc, importlib, sys
from pathlib import Path
from rich.console import Console
import jaxprune as jp
from experiments.shared.study import run
from jaxprune.report import Page
from tests import haste

haste.together()
name, settings, shards, out = sys.argv[1], eval(sys.argv[2]), sys.argv[3].split(), Path(sys.argv[4])
gc.set_threshold(50_000, 20, 50)  # as in tests/conftest.py
made, fit, console = importlib.import_module(f"experiments.{name}"), jp.train.fit, Console(stderr=True)
run(made.STUDY, made.Settings(**settings, out=out / "whole"), console)
# Once is enough for the page.
study = made.STUDY._replace(claims=lambda _: [], tables=lambda *_: {}, page=lambda *_: Page("", ""))
for shard in shards:
    allowed = 0
    while True:
        calls = 0
        def dying(*arguments, **named):
            global calls
            calls += 1
            if calls > allowed:
                raise KeyboardInterrupt
            return fit(*arguments, **named)
        jp.train.fit = dying
        try:
            run(study, made.Settings(**settings, shard=shard, out=out / "killed"), console)
            break
        except KeyboardInterrupt:
            allowed += 1
    print(allowed, flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Made:
    """Where a study lies, whole and, in some shards, killed; and how often it was killed in each of them."""

    name: str
    settings: dict[str, Any]
    out: Path
    shards: list[str]
    kills: list[int]

    @property
    def whole(self) -> Path:
        return self.out / "whole"

    @property
    def study(self) -> Any:
        return importlib.import_module(f"experiments.{self.name}").STUDY

    @property
    def asked(self) -> Any:
        return importlib.import_module(f"experiments.{self.name}").Settings(**self.settings, out=self.whole)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted((self.whole / "records").glob("*.json"))]


def make(name: str, settings: dict[str, Any], out: Path, shards: str = "1/1") -> Made:
    """Makes a study of these settings, twice."""
    environment = {key: value for key, value in os.environ.items() if key != "JAX_ENABLE_X64"}
    environment["XLA_FLAGS"] = haste.FLAGS
    words = [sys.executable, "-c", RUN, name, repr(settings), shards, str(out)]
    done = subprocess.run(words, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    # The progress bar of a pretraining leaves a line of its own.
    kills = [int(line) for line in done.stdout.split("\n") if line.strip().isdigit()]
    return Made(name, settings, out, shards.split(), kills)


def said(name: str, words: list[str], patch: pytest.MonkeyPatch, capsys: Any) -> tuple[Any, str]:
    """What the command of a study says on these words, and the code that it ends with."""
    made = importlib.import_module(f"experiments.{name}")
    patch.setattr(sys, "argv", ["study", *words])
    patch.setenv("COLUMNS", "200")
    patch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with pytest.raises(SystemExit) as ended:
        command(made.STUDY, made.Settings, made.__doc__)
    return ended.value.code, "".join(capsys.readouterr())


def refused(name: str, out: Path, patch: pytest.MonkeyPatch, match: str, **settings: Any) -> None:
    """Sees a study refuse its settings before anything is trained."""
    made = importlib.import_module(f"experiments.{name}")

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("training started")

    patch.setattr(jp.train, "fit", forbidden)
    with pytest.raises(ValueError, match=match):
        run(made.STUDY, made.Settings(**settings, out=out), Console(quiet=True))
    assert not (out / "checkpoints").exists()


def digests(folder: Path) -> dict[str, str]:
    return {path.name: json.loads(path.read_text())["digest"] for path in (folder / "records").glob("*.json")}


def check_promises(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds a study to what all of them owe; it damages a record."""
    whole, killed = digests(made.whole), digests(made.out / "killed")
    assert all(made.kills), "it was never killed"
    assert killed
    assert killed.items() <= whole.items()
    assert made.shards == ["1/2"] or len(killed) == len(whole)
    assert not list((made.out / "killed" / "claims").iterdir())

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished study was computed again")

    monkeypatch.setattr(jp.train, "fit", forbidden)
    brief = made.study._replace(page=lambda *_: Page("", ""), tables=lambda *_: {}, claims=lambda _: [])
    before = {path: path.stat().st_mtime_ns for path in made.whole.rglob("records/*")}
    written = {path: path.read_text() for path in (*made.whole.glob("*.csv"), made.whole / "index.html")}
    assert run(brief, made.asked, Console(quiet=True)).exists()
    assert before == {path: path.stat().st_mtime_ns for path in made.whole.rglob("records/*")}
    for path_, content in written.items():
        path_.write_text(content)

    assert not {name: fault for name, (_, fault) in check(written[made.whole / "index.html"]).items() if fault}
    tables = load(made.whole)
    assert list(tables.verdicts.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert set(tables.metrics.columns) >= {"seed", "metric", "value"}

    path = min((made.whole / "records").glob("*.json"))
    text = path.read_text()
    path.write_text(text[:-20])
    shown = io.StringIO()
    with pytest.warns(UserWarning, match=path.name):
        run(brief, dataclasses.replace(made.asked, dry_run=True), Console(file=shown, width=200))
    count = len(whole)
    assert shown.getvalue().splitlines()[-1] == f"runs {count}, done {count - 1}, to do 1"
    assert not path.exists()
    assert len(list((made.whole / "damaged").iterdir())) == 1
    path.write_text(text)
