import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import jaxprune as jp
from experiments import landscape, transfer
from jaxprune import records

ROOT = Path(__file__).parents[1]
SMOKE: dict[str, Any] = {
    "pretrain_steps": 5,
    "finetune_steps": 2,
    "width": 1,
    "penalties": (1.0,),
    "scores": ("random",),
    "seeds": (0,),
    "count": 2,
    "steps": 3,
    "probes": 1,
    "trace_probes": 2,
    "points": 3,
}


# Makes the study, removes a record, and makes it again; the digests of all records are printed each time.
RUN = f"""
import json, sys
from pathlib import Path
from experiments import landscape
from rich.console import Console

out = Path(sys.argv[1])
for number in range(2):
    landscape.main(landscape.Study(**{SMOKE!r}, out=out), Console(stderr=True))
    paths = sorted((out / "records").glob("*.json"))
    print(json.dumps({{path.name: json.loads(path.read_text())["digest"] for path in paths}}))
    if number == 0:
        paths[0].unlink()
"""


def study(out: Path, **options: Any) -> landscape.Study:
    return landscape.Study(**{**SMOKE, **options}, out=out)


def make(out: Path) -> list[dict[str, str]]:
    """Makes the study twice, in one process that compiles in haste: compiling takes most of the time."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    words = [sys.executable, "-c", RUN, str(out)]
    done = subprocess.run(words, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    # The progress bar of the pretraining leaves a line of its own.
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def every_run_leaves_a_record_with_finite_numbers_that_agree(out: Path) -> None:
    runs = landscape.grid(study(out, source="0-4", transfer="5-9"))
    assert [one.score for one in runs] == ["dense", "random"]
    store = records.Store(out / "records", "landscape")
    dense, pruned = (store.read(one)["metrics"] for one in runs)
    assert dense["pruning"] == {}
    np.testing.assert_allclose(pruned["sparsity"], 0.8, atol=1e-2)
    for metrics in (dense, pruned):
        for stage in ("pruned", "finetuned"):
            for task in ("source", "transfer"):
                one = metrics["curvature"][stage][task]
                assert one["eigenvalues"] == sorted(one["eigenvalues"], reverse=True)
                # The middle of a slice is the network itself.
                assert metrics["slices"][stage][task]["losses"][1][1] == pytest.approx(one["loss"], rel=1e-5)
            assert 0 <= metrics["curvature"][stage]["alignment"]["transfer"]["overlap"] <= 1 + 1e-9
        assert all(one["height"] >= 0 for pair in metrics["barriers"].values() for one in pair.values())
    whole = dense["curvature"]["pruned"]["source"]["weights"]
    left, gone = pruned["curvature"]["pruned"]["source"]["weights"], pruned["pruning"]["source"]["weights"]
    assert left + gone == whole
    change = pruned["curvature"]["pruned"]["source"]["loss"] - dense["curvature"]["pruned"]["source"]["loss"]
    assert pruned["pruning"]["source"]["path"]["true"][-1] == pytest.approx(change, rel=1e-4)


def the_page_says_what_came_out(out: Path) -> None:
    text = (out / "index.html").read_text()
    assert text.count("<svg") == 8
    assert "Fewer than three seeds say little" in text
    for name in ("verdicts", "spectra", "curves"):
        assert (out / f"{name}.csv").read_text().count("\n") > 4
    assert "nan" not in (out / "verdicts.csv").read_text()


def a_finished_study_is_not_computed_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished study was computed again")

    monkeypatch.setattr(transfer, "prepare", forbidden)
    monkeypatch.setattr(landscape.landscape_page, "write", lambda _, found, console: out / str(len(found)))
    assert landscape.main(study(out), Console(quiet=True)) == out / "2"


# One test, so that one worker makes the study.
def test_landscape_leaves_records_and_a_page_and_resumes(tmp_path, monkeypatch):
    first, resumed = make(tmp_path)
    assert first == resumed
    every_run_leaves_a_record_with_finite_numbers_that_agree(tmp_path)
    the_page_says_what_came_out(tmp_path)
    a_finished_study_is_not_computed_again(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity: expected a fraction in \[0, 1\)"),
        ({"matrix": "hesian"}, "matrix: unknown value 'hesian'. Did you mean 'hessian'"),
        ({"scores": ("randon",)}, "scores: unknown value 'randon'. Did you mean 'random'"),
        ({"scores": ()}, r"scores: expected one or more, each of them once, but got \(\)"),
        ({"transfer": "5-8"}, "task: unknown value '5-8'. Did you mean '5-9'"),
        ({"transfer": "0-4"}, "task: unknown value '0-4'"),
        ({"count": 4}, r"count: expected at most steps \(3\), but got 4\. Take more steps"),
        ({"probes": 0}, "probes: expected a finite number above 0"),
        ({"points": 1}, "points: expected 2 or more, but got 1"),
        ({"reach": -1.0}, "reach: expected a finite number above 0"),
        ({"margin": 0.0}, "margin: expected a finite number above 0"),
        ({"seeds": (0, 0)}, r"seeds: expected one or more, each of them once"),
        ({"width": 0}, "width: expected a finite number above 0"),
    ],
)
def test_landscape_finds_a_bad_value_before_anything_expensive(tmp_path, monkeypatch, change, message):
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("training started")

    monkeypatch.setattr(jp.train, "fit", forbidden)
    with pytest.raises(ValueError, match=message):
        landscape.main(study(tmp_path, **change))


def test_landscape_explains_its_errors_on_the_command_line():
    words = [sys.executable, "-m", "experiments.landscape", "--matrix", "hesian"]
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: matrix: unknown value 'hesian'. Did you mean 'hessian'?")
