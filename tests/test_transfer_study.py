import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from experiments import transfer
from jaxprune import records

ROOT = Path(__file__).parents[1]
SMOKE: dict[str, Any] = {
    "pretrain_steps": 20,
    "finetune_steps": 2,
    "width": 2,
    "penalties": (1.0,),
    "scores": ("magnitude", "random"),
    "sparsities": (0.5, 0.9),
    "seeds": (0,),
    "shifts": ("noise",),
}

# Each run is "folder,shard,rounds"; how many records there are is printed after each.
RUN = f"""
import sys
from pathlib import Path
from experiments import transfer
from rich.console import Console

for words in sys.argv[1:]:
    out, shard, rounds = words.split(",")
    study = transfer.Study(**{SMOKE!r}, out=Path(out), shard=shard, rounds=int(rounds))
    transfer.main(study, console=Console(stderr=True))
    print(len(list((study.out / "records").glob("*.json"))), flush=True)
"""


def launch(cache: Path, *runs: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"}
    # Compiling takes most of the time, so it is done in haste; later processes reuse what the first compiled.
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    words = [sys.executable, "-c", RUN, *runs]
    return subprocess.Popen(words, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str]) -> list[int]:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return [int(line) for line in output.split()]


def kill_after_a_record(process: subprocess.Popen[str], folder: Path) -> dict[str, str]:
    deadline = time.monotonic() + 300
    while not list(folder.glob("records/*.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return digests(folder)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: json.loads(path.read_text())["digest"] for path in folder.glob("records/*.json")}


def make(folder: Path) -> dict[str, Any]:
    """Makes a whole study, one that is killed and resumed, one in two shards, and one of three rounds."""
    cache = folder / "cache"
    counts = finish(launch(cache, f"{folder}/whole,1/1,1"))
    before = kill_after_a_record(launch(cache, f"{folder}/killed,1/1,1"), folder / "killed")
    runs = ("killed,1/1,1", "shards,1/2,1", "shards,2/2,1", "rounds,1/1,3")
    counts += finish(launch(cache, *(f"{folder}/{run}" for run in runs)))
    return {"counts": counts, "before the kill": before}


def study(out: Path, **options: Any) -> transfer.Study:
    return transfer.Study(**{**SMOKE, **options}, out=out)


def every_run_leaves_a_record_that_fits_its_digest(studies: Path, notes: dict[str, Any]) -> None:
    found = digests(studies / "whole")
    runs = transfer.grid(study(studies / "whole", source="0-4"))
    assert len(runs) == len(found) == notes["counts"][0] == 5
    store = records.Store(studies / "whole" / "records", "transfer")
    for run in runs:
        record = store.read(run)
        assert record["digest"] == found[store.path(run).name]
        assert (record["config"]["score"], record["config"]["sparsity"]) == (run.score, run.sparsity)
        np.testing.assert_allclose(record["metrics"]["sparsity"], run.sparsity, atol=1e-3)
        assert set(record["metrics"]["domains"]) == {"0-4", "5-9", "0-4 + noise", "5-9 + noise"}
        for stage in ("pruned", "finetuned"):
            for kind in ("frozen", "refitted"):
                for one in record["metrics"][stage][kind].values():
                    assert one["n"] == len(one["hits"]) > 200
                    assert one["accuracy"] == pytest.approx(one["hits"].count("1") / one["n"])
        assert record["provenance"]["packages"]["jax"]
    assert store.read(runs[0])["metrics"]["loss_increase"]["true"] == 0.0


def a_killed_study_goes_on_where_it_was_and_ends_with_the_same_digests(studies: Path, notes: dict[str, Any]) -> None:
    whole, before = digests(studies / "whole"), notes["before the kill"]
    assert 1 <= len(before) < 5
    assert before.items() <= whole.items()  # two fresh processes agree
    assert digests(studies / "killed") == whole
    assert notes["counts"][1] == 5


def shards_together_are_the_whole(studies: Path, notes: dict[str, Any]) -> None:
    assert digests(studies / "shards") == digests(studies / "whole")
    assert notes["counts"][2:4] == [3, 5]


def rounds_reach_the_same_sparsity_under_another_key(studies: Path) -> None:
    found = digests(studies / "rounds")
    assert len(found) == 5
    assert not set(found) & set(digests(studies / "whole"))
    store = records.Store(studies / "rounds" / "records", "transfer")
    for run in transfer.grid(study(studies / "rounds", source="0-4", rounds=3)):
        np.testing.assert_allclose(store.read(run)["metrics"]["sparsity"], run.sparsity, atol=1e-3)


def a_finished_study_is_not_computed_again(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished study was computed again")

    monkeypatch.setattr(transfer, "prepare", forbidden)
    kept = ("records", "networks")
    before = {path: path.stat().st_mtime_ns for name in kept for path in (studies / "whole" / name).rglob("*")}
    page = transfer.main(study(studies / "whole"))
    assert before == {path: path.stat().st_mtime_ns for name in kept for path in (studies / "whole" / name).rglob("*")}
    assert page.exists()


def a_damaged_record_is_an_error_with_a_remedy(studies: Path) -> None:
    path = min((studies / "whole" / "records").iterdir())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(
        ValueError, match=rf"record: '{path}' is damaged \(.+\)\. Delete it; running again makes it anew"
    ):
        transfer.main(study(studies / "whole"))


# One test, so that one worker makes the studies and none waits for them.
def test_transfer_is_the_same_whole_killed_in_shards_and_repeated(tmp_path, monkeypatch):
    notes = make(tmp_path)
    every_run_leaves_a_record_that_fits_its_digest(tmp_path, notes)
    a_killed_study_goes_on_where_it_was_and_ends_with_the_same_digests(tmp_path, notes)
    shards_together_are_the_whole(tmp_path, notes)
    rounds_reach_the_same_sparsity_under_another_key(tmp_path)
    a_finished_study_is_not_computed_again(tmp_path, monkeypatch)
    a_damaged_record_is_an_error_with_a_remedy(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "digit"}, "data: unknown value 'digit'. Did you mean 'digits'"),
        ({"data": "tfds:mnits"}, "data: tfds: unknown value 'mnits'. Did you mean 'mnist'"),
        ({"source": "0-5"}, "task: unknown value '0-5'. Did you mean '0-4'"),
        ({"scores": ("magnitude", "randon")}, "scores: unknown value 'randon'. Did you mean 'random'"),
        ({"head": "rigde"}, "head: unknown value 'rigde'. Did you mean 'ridge'"),
        ({"loss": "cross-entropy"}, "loss: unknown value 'cross-entropy'. Did you mean 'cross_entropy'"),
        ({"shifts": ("nose",)}, "shifts: unknown value 'nose'. Did you mean 'noise'"),
        (
            {"sparsities": (0.5, 1.0)},
            r"sparsities: expected a fraction in \[0, 1\).*To remove 90 % of the weights pass 0.9",
        ),
        ({"sparsities": (-0.1,)}, r"sparsities: expected a fraction in \[0, 1\)"),
        ({"shard": "3/2"}, "shard: expected i/n with 1 <= i <= n, such as 2/4, but got '3/2'"),
        ({"shard": "0/2"}, "shard: expected i/n"),
        ({"shard": "one"}, "shard: expected i/n"),
        ({"scores": ()}, r"scores: expected one or more, each of them once, but got \(\)"),
        ({"seeds": ()}, r"seeds: expected one or more, each of them once, but got \(\)"),
        ({"seeds": (0, 1, 0)}, r"seeds: expected one or more, each of them once, but got \(0, 1, 0\)"),
        ({"image": 0}, "image: expected a finite number above 0"),
        ({"pretrain_steps": 0}, "pretrain_steps: expected a finite number above 0, but got 0"),
        ({"finetune_rate": float("inf")}, "finetune_rate: expected a finite number above 0, but got inf"),
        ({"batch_size": 0}, "batch_size: expected a finite number above 0"),
        ({"rounds": 0}, "rounds: expected a finite number above 0"),
        ({"width": 0}, "width: expected a finite number above 0"),
        ({"depth": 7}, "depth: expected 6 n"),
        ({"damping": -1.0}, "damping: expected"),
        ({"penalties": (1.0, 0.0)}, "penalt"),
        ({"seeds": (0, -1)}, "seed"),
    ],
)
def test_transfer_finds_a_bad_value_before_anything_expensive(tmp_path, monkeypatch, change, message):
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("training started")

    monkeypatch.setattr(jp.train, "fit", forbidden)
    with pytest.raises(ValueError, match=message):
        transfer.main(study(tmp_path, **change))
    assert not (tmp_path / "networks").exists()


def test_transfer_names_a_folder_that_cannot_be_written_before_anything_expensive(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"out: cannot write in '.*file/results' \(Not a directory\). Choose a folder"):
        transfer.main(study(tmp_path / "file" / "results"))


def test_grid_holds_every_cell_once_and_every_seeds_dense_network():
    runs = transfer.grid(study(Path(), seeds=(0, 1)))
    cells = [(run.seed, run.score, run.sparsity) for run in runs]
    assert len(set(cells)) == len(cells) == 2 * (1 + 2 * 2)
    assert [cell[2] for cell in cells if cell[1] == "dense"] == [0.0, 0.0]
    keys = {records.key("transfer", run) for run in runs}
    assert len(keys) == len(runs)
    moved = [dataclasses.replace(run, seed=run.seed + 7) for run in runs]
    assert not keys & {records.key("transfer", run) for run in moved}


def test_transfer_explains_itself_and_its_errors_on_the_command_line():
    calls = (["--help"], ["--scroes", "magnitude"], ["--sparsities", "many"], ["--data", "digit"])
    environment = {**os.environ, "COLUMNS": "200"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "experiments.transfer", *words],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for words in calls
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 2, 2, 1], outputs
    assert all(flag in outputs[0] for flag in ("--scores", "--sparsities", "--shard", "--out"))
    assert "--scores" in outputs[1]
    assert "--sparsities" in outputs[2]
    assert outputs[3].startswith("error: data: unknown value 'digit'. Did you mean 'digits'?")


def test_pretrain_never_shares_networks_of_other_images(tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr(jp.train, "fit", lambda *_, folder, **__: folders.append(folder))
    settings, images = study(tmp_path), np.zeros((2, 8, 8, 1), np.float32)
    for side in (8, 16, 8):
        data = {"image": np.zeros((2, side, side, 1), np.float32), "label": np.array([0, 1])}
        transfer.pretrain(settings, 0, data, 2, tmp_path)
    transfer.pretrain(settings, 0, {"image": images + 1, "label": np.array([0, 1])}, 2, tmp_path)
    assert folders[0] == folders[2]
    assert len(set(folders)) == 3
