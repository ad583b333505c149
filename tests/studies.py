"""What every study owes: equal records whether it ran whole, was killed before every training, or ran in shards;
nothing computed twice; damage named.

A study is made in a process of its own that compiles in haste, because compiling takes most of the time.
"""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import jaxprune as jp
from tests import haste

ROOT = Path(__file__).parents[1]

# Makes the study whole; and, shard by shard, killed before every one of its trainings.
RUN = """
import importlib, sys
from collections.abc import Callable
from pathlib import Path
from rich.console import Console
import jaxprune as jp

name, settings, shards, out = sys.argv[1], eval(sys.argv[2]), sys.argv[3].split(), Path(sys.argv[4])
study, fit, console = importlib.import_module(f"experiments.{name}"), jp.train.fit, Console(stderr=True)
study.main(study.Study(**settings, out=out / "whole"), console=console)
page = next(value for name, value in vars(study).items() if name.endswith("_page"))
page.write = lambda *_, **__: out  # once is enough
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
            part = {} if shard == "1/1" else {"shard": shard}
            study.main(study.Study(**settings | part, out=out / "killed"), console=console)
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
        return importlib.import_module(f"experiments.{self.name}").Study(**self.settings, out=self.whole)

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


def said(command: Callable[[], None], words: list[str], patch: pytest.MonkeyPatch, capsys: Any) -> tuple[Any, str]:
    """What a command says on these words, and the code or the message that it ends with."""
    patch.setattr(sys, "argv", ["study", *words])
    patch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        command()
    return ended.value.code, "".join(capsys.readouterr())


def digests(folder: Path) -> dict[str, str]:
    return {path.name: json.loads(path.read_text())["digest"] for path in (folder / "records").glob("*.json")}


def check_promises(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds a study to what all of them owe; it damages a record."""
    study = importlib.import_module(f"experiments.{made.name}")
    whole, killed = digests(made.whole), digests(made.out / "killed")
    assert all(made.kills), "it was never killed"
    assert killed
    assert killed.items() <= whole.items()
    assert made.shards == ["1/2"] or len(killed) == len(whole)

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished study was computed again")

    with monkeypatch.context() as patch:
        patch.setattr(jp.train, "fit", forbidden)
        page = next(value for name, value in vars(study).items() if name.endswith("_page"))
        patch.setattr(page, "write", lambda *_, **__: made.whole / "index.html")
        before = {path: path.stat().st_mtime_ns for path in made.whole.rglob("records/*")}
        assert study.main(made.study, console=Console(quiet=True)).exists()
        assert before == {path: path.stat().st_mtime_ns for path in made.whole.rglob("records/*")}

    path = min((made.whole / "records").glob("*.json"))
    text = path.read_text()
    path.write_text(text[:-20])
    try:
        with pytest.raises(
            ValueError, match=rf"record: '{path}' is damaged \(.+\)\. Delete it; running again makes it"
        ):
            study.main(made.study, console=Console(quiet=True))
    finally:
        path.write_text(text)
