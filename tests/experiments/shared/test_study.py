"""The skeleton of all studies: what a command promises whatever the study is."""

import dataclasses
import io
import itertools
import json
import multiprocessing
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments import load, transfer
from experiments.shared import engine, study
from experiments.shared.results import COLUMNS, complete, metrics
from experiments.shared.settings import check_execution, fits
from experiments.shared.study import Study, command, run
from experiments.shared.work import part
from jaxprune import records
from jaxprune.store import Store
from tests.experiments import small

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def made(out: Path, study: Study = small.STUDY, **settings) -> tuple[Path, str]:
    """Runs the small study: (what it returns, what it prints)."""
    text = io.StringIO()
    return run(study, small.Settings(**{"seeds": (0, 1), **settings}, out=out), Console(file=text, width=200)), (
        text.getvalue()
    )


def said(out: Path, monkeypatch, capsys, *words: str, leave=lambda code: None) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["study", "--seeds", "0", "1", "--out", str(out), *words])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(study, "_leave", leave)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with pytest.raises(SystemExit) as ended:
        command(small.STUDY, small.Settings, small.__doc__)
    return ended.value.code, "".join(capsys.readouterr())


def test_run_makes_records_tables_and_a_page_and_computes_nothing_twice(tmp_path):
    small.prepared.clear()
    page, text = made(tmp_path)
    assert page == tmp_path / "index.html"
    assert "Seeds [0, 1]." in page.read_text()
    assert "6 runs" in page.read_text()  # where and with what
    assert small.prepared == [0, 1]
    assert [line[:6] for line in text.splitlines()[1:7]] == [f"[{done}/6] " for done in range(1, 7)]
    assert all("left" in line for line in text.splitlines()[1:6])
    record = next(json.loads(path.read_text()) for path in (tmp_path / "records").iterdir())
    assert record["provenance"]["clock"] == 1.0
    assert set(record["metrics"]) == {"value", "parts"}
    again = [path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()]
    made(tmp_path)
    assert again == [path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()]
    assert small.prepared == [0, 1]


def test_load_gives_two_tidy_tables(tmp_path):
    made(tmp_path)
    verdicts, numbers = load(tmp_path)
    assert tuple(verdicts.columns[: len(COLUMNS)]) == COLUMNS
    assert verdicts.case.tolist() == ["number 1", "number 2", "number 3"]
    np.testing.assert_allclose(verdicts["mean"], [1.5, 2.5, 3.5])
    assert verdicts[["n", "seeds"]].to_numpy().tolist() == [[2, 2]] * 3
    assert set(verdicts.verdict) == {"undecided"}  # two seeds that differ by 1 say little
    assert numbers.columns.tolist() == ["seed", "number", "metric", "value"]
    assert len(numbers) == 6 * 2
    chosen = numbers[(numbers.seed == 1) & (numbers.number == 3) & (numbers.metric == "value")]
    assert chosen.value.tolist() == [4.0]
    with pytest.raises(ValueError, match="out: expected the folder of a finished study"):
        load(tmp_path / "nowhere")


def test_metrics_leaves_lists_to_the_records():
    record = {"config": {"seed": 0}, "metrics": {"hits": [1, 0], "deep": {"one": 1, "flag": True}, "name": "x"}}
    assert metrics([record])[["metric", "value"]].to_numpy().tolist() == [["deep/one", 1], ["deep/flag", True]]


def test_run_goes_on_where_a_run_fails_and_tries_it_again_when_asked(tmp_path):
    page, text = made(tmp_path, breaking="fail")
    assert len(list((tmp_path / "records").iterdir())) == 5
    (failure,) = (tmp_path / "failed").iterdir()
    failure = json.loads(failure.read_text())
    assert failure["error"] == "FloatingPointError: a weight is [nan]"
    assert "in measure" in failure["traceback"]
    assert "FloatingPointError: a weight is [nan]" in text
    # Seed 1 lacks a run, so that no comparison is of it.
    html = page.read_text()
    assert "1 run failed (seed 1  number 2: FloatingPointError: a weight is [nan])" in html
    assert "Seeds [0]." in html
    assert html.index("1 run failed") < html.index("Seeds [0].")
    assert load(tmp_path).verdicts.seeds.tolist() == [1, 1, 1]
    _, text = made(tmp_path)
    assert "0 of them to do here" in text  # not without being asked
    page, text = made(tmp_path, retry=True)
    assert "1 of them to do here" in text
    assert "Seeds [0, 1]." in page.read_text()
    assert not list((tmp_path / "failed").iterdir())


def test_run_leaves_out_what_goes_with_a_failed_run_and_says_so(tmp_path):
    study_ = small.STUDY._replace(apart=lambda one: None if one.number == 1 else f"number {one.number}")
    page, text = made(tmp_path, study_, breaking="fail")
    assert "Left out of all that follows: number 2." in page.read_text()
    assert "Left out of all that follows: number 2." in text
    assert load(tmp_path).verdicts[["number", "seeds"]].to_numpy().tolist() == [[1, 2], [3, 2]]


def test_run_leaves_no_tables_of_other_settings(tmp_path):
    made(tmp_path, small.STUDY._replace(tables=lambda settings, results, tested: {"curves": tested}), seeds=(0,))
    assert (tmp_path / "curves.csv").exists()
    (tmp_path / "mine.csv").write_text("of the user")
    made(tmp_path, seeds=(1,), breaking="fail")
    assert {path.name for path in tmp_path.glob("*.csv")} == {"verdicts.csv", "metrics.csv", "mine.csv"}
    assert load(tmp_path).verdicts.empty


def test_check_execution_wants_several_values_where_there_are_several(tmp_path):
    for wrong in (1, "12", None):
        with pytest.raises(ValueError, match=r"numbers: expected several values, such as \(1, 2, 3\), but got"):
            made(tmp_path, numbers=wrong)


def test_run_notes_what_fails_in_preparing_for_every_run_that_needs_it(tmp_path):
    page, _ = made(tmp_path, breaking="prepare")
    assert len(list((tmp_path / "failed").iterdir())) == len(list((tmp_path / "records").iterdir())) == 3
    assert "3 runs failed" in page.read_text()


def test_complete_leaves_out_seeds_and_a_page_says_so_where_none_is_left(tmp_path):
    runs = [small.Run(seed, number, 1.0) for seed in (0, 1) for number in (1, 2)]
    every = [(one, {"run": one}) for one in runs]
    assert complete(every[:3], runs[3:], lambda one: None) == ([{"run": one} for one in runs[:2]], ["seed 1"])
    kept = [{"run": one} for one in runs if one.number == 1]
    assert complete(every[:3], runs[3:], lambda one: f"number {one.number}") == (kept, ["number 2"])
    page, _ = made(tmp_path, seeds=(1,), breaking="fail")
    assert "Nothing can be compared." in page.read_text()
    assert load(tmp_path).verdicts.empty
    assert sorted(load(tmp_path).metrics.number.unique()) == [1, 3]
    assert "a weight is [nan]" in page.read_text()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ([], 0, ""),
        (["--scale", "-1"], 2, "error: scale: expected a number above 0, but got -1.0."),
        (["--numbers", "1", "1"], 2, "error: plan: expected runs that differ"),
        (["--shard", "3/2"], 2, "error: shard: expected i/n with 1 <= i <= n, such as 2/4, but got '3/2'."),
        (["--shard", "one"], 2, "error: shard: expected i/n"),
        (["--seeds"], 2, "error: seeds: expected one or more, each of them once, but got ()."),
        (["--seeds", "0", "0"], 2, "error: seeds: expected one or more, each of them once"),
        (["--seeds", str(2**32)], 2, f"error: seeds: expected whole numbers from 0 to {2**32 - 1}, but got {2**32}."),
        (["--seeds", "-1"], 2, "error: seeds: expected whole numbers from 0"),
        (["--engine", "slurm"], 2, "error: engine: unknown value 'slurm'"),
        (["--engine-options", "gpu"], 2, "error: engine_options: expected name=value"),
        (["--out", "gs://bucket/results"], 2, "error: out: expected a folder on a local disk or on NFS, but got"),
        (["--depth", "8"], 2, "error: --depth: the study small has no such option. See "),
        (["--breaking", "fail"], 3, "1 run failed (seed 1  number 2: FloatingPointError: a weight is [nan]). Their"),
        (["--seeds", "1.5"], 2, "error: "),
        (["--numbers", "one"], 2, "--numbers"),
        (["--out"], 2, "--out"),
        (["--breaking", "interrupt"], 130, "interrupted: 4 of 6 runs are kept in "),
        (["--breaking", "terminate"], 143, "stopped by SIGTERM: 4 of 6 runs are kept in "),
    ],
)
def test_command_ends_in_one_line_and_its_code(tmp_path, monkeypatch, capsys, words, code, line):
    left = []
    ended, text = said(tmp_path, monkeypatch, capsys, *words, leave=left.append)
    assert ended == code, text
    assert line in text
    if code == 2:
        assert len(text.splitlines()) == 1
    assert left == ([code] if code >= 130 else [])
    if code >= 130:
        assert "; the same command does the others." in text
        assert not list((tmp_path / "claims").iterdir())
        assert "Traceback" not in text


def test_command_shows_faults_of_a_study_and_its_code_is_1(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise KeyError("no such column")

    monkeypatch.setattr(small, "STUDY", small.STUDY._replace(page=broken))
    code, text = said(tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "Traceback" in text
    assert "error: this is a fault of the study. 6 of 6 runs are kept" in text


def test_command_says_that_the_disk_is_full_and_its_code_is_1(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "write", full)
    code, text = said(tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "error: [Errno 28] No space left on device. 0 of 6 runs are kept" in text
    assert "Traceback" not in text
    assert not list((tmp_path / "failed").iterdir())


def test_run_refuses_the_folder_of_another_study(tmp_path):
    made(tmp_path)
    with pytest.raises(ValueError, match=r"out: expected a new folder, or one of the study 'other'"):
        made(tmp_path, small.STUDY._replace(name="other"))


def test_run_neither_uses_nor_overwrites_records_of_other_settings_data_or_methods(tmp_path):
    made(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "records").iterdir()}
    others = small.STUDY._replace(open=lambda settings: small.Inputs(settings, "other data"))
    for other, settings in (
        (small.STUDY._replace(version=2), {}),
        (others, {}),
        (small.STUDY, {"scale": 2.0}),
    ):
        _, text = made(tmp_path, other, dry_run=True, **settings)
        assert text.splitlines() == [
            "6 records of other settings, data or methods lie there too, and stay as they are.",
            "runs 6, done 0, to do 6",
        ]
        made(tmp_path, other, **settings)
        assert {path: path.read_bytes() for path in before} == before
        for path in set((tmp_path / "records").iterdir()) - set(before):
            path.unlink()


def test_run_dry_and_status_compute_nothing(tmp_path):
    small.prepared.clear()
    path, text = made(tmp_path, dry_run=True)
    assert path == tmp_path
    assert text.splitlines()[-1] == "runs 6, done 0, to do 6"
    made(tmp_path, breaking="fail")
    _, text = made(tmp_path, dry_run=True)
    assert text.splitlines()[-1] == "runs 6, done 5, failed 1, to do 0"
    _, text = made(tmp_path, dry_run=True, retry=True)
    assert text.splitlines()[-1] == "runs 6, done 5, to do 1"
    _, text = made(tmp_path, status=True)
    states = dict(
        zip(*[iter(part for line in text.splitlines()[:-1] for part in line.split(None, 1))] * 2, strict=True)
    )
    assert text.splitlines()[4] == "failed   seed 1  number 2: FloatingPointError: a weight is [nan]"
    assert "done" in states
    assert small.prepared == [0, 1]


def test_part_splits_what_shares_preparing_only_where_there_are_more_parts():
    runs = [(seed, number) for seed in range(3) for number in range(4)]
    for count in (1, 2, 3, 5, 12):
        parts = [part(runs, f"{index}/{count}", lambda one: one[0]) for index in range(1, count + 1)]
        assert sorted(itertools.chain(*parts)) == runs
        assert all(parts)
        if count <= 3:
            seeds = [{seed for seed, _ in one} for one in parts]
            assert sum(map(len, seeds)) == 3


def test_run_leaves_the_page_to_the_last_shard(tmp_path):
    path, text = made(tmp_path, shard="1/2")
    assert path == tmp_path
    assert "3 runs left to others" in text
    page, _ = made(tmp_path, shard="2/2")
    assert page.name == "index.html"


def _worker(out: Path, seconds: float, log: Path) -> None:
    def measure(settings, one):
        with log.open("a") as handle:
            handle.write(f"{one.seed} {one.number}\n")
        time.sleep(seconds)
        return {"value": 1.0}

    made(out, small.STUDY._replace(measure=measure), worker=True, seeds=tuple(range(6)))


def test_work_of_several_processes_does_no_run_twice(tmp_path):
    log, fork = tmp_path / "log", multiprocessing.get_context("spawn")
    workers = [fork.Process(target=_worker, args=(tmp_path / "out", 0.02, log)) for _ in range(3)]
    for one in workers:
        one.start()
    for one in workers:
        one.join(300)
    assert [one.exitcode for one in workers] == [0, 0, 0]
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 18
    assert (tmp_path / "out" / "index.html").exists()
    assert not list((tmp_path / "out" / "claims").iterdir())


def test_work_waits_for_runs_of_others_and_takes_them_over_from_the_dead(tmp_path):
    """Another process claims a run and dies; this one does it, and ends with the page."""
    made(tmp_path, dry_run=True)
    store = Store(tmp_path, "small", data="data")
    code = f"""
import os, signal, sys
from pathlib import Path
from jaxprune.store import Store
from tests.experiments import small
claim = Store(Path({str(tmp_path)!r}), "small", data="data").claim(small.Run(1, 2, 1.0))
print("held", flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        assert store.state(small.Run(1, 2, 1.0)) == "running"
        _, text = made(tmp_path, worker=True)
        assert "1 run left to others" in text

        class Kills(Console):
            def print(self, *words, **options):
                if "Waiting for 1 run " in str(words[0]):
                    other.stdin.write(b"x")
                    other.stdin.flush()

        settings = small.Settings(seeds=(0, 1), out=tmp_path)
        assert run(small.STUDY, settings, Kills(file=io.StringIO())).name == "index.html"


def test_executor_names_what_is_not_installed_and_options_that_do_not_exist(tmp_path, monkeypatch):
    code = """
import sys
from experiments.shared.study import command
from tests.experiments import small
*words, first, second = sys.argv
for option in (first, second):
    sys.argv = [*words, "--engine-options", option]
    try:
        command(small.STUDY, small.Settings, "small")
    except SystemExit as ended:
        print(ended.code)
"""
    # In a process of its own: submitit closes the handlers of the tests' log when it is imported.
    words = [sys.executable, "-c", code, "--engine", "submitit", "--out", str(tmp_path)]
    words += ["slrum_partition=gpu", "cluster=nowhere"]
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, timeout=900, check=False)
    assert done.stdout.split() == ["2", "2"]
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: engine_options: ") for line in lines)
    monkeypatch.setattr(engine.importlib, "import_module", _missing)
    with pytest.raises(ModuleNotFoundError, match=r"engine: submitit is not installed\. Do pip install submitit"):
        made(tmp_path, engine="submitit")


def test_submit_says_that_no_job_finished_a_run(tmp_path, monkeypatch):
    class Jobs:
        map_array = staticmethod(lambda *_: [])

    monkeypatch.setattr(engine, "executor", lambda settings: Jobs)
    with pytest.raises(OSError, match="engine: 3 times no job finished a run"):
        made(tmp_path, engine="submitit")


def _missing(name):
    raise ModuleNotFoundError(name)


def test_check_execution_takes_every_seed_that_jax_tells_apart():
    check_execution(small.Settings(seeds=(0, 2**32 - 1)))
    with pytest.raises(ValueError, match="seeds: expected whole numbers"):
        check_execution(small.Settings(seeds=(0.5,)))


def test_fits_refuses_networks_larger_than_memory():
    import jaxprune as jp

    fits("width", 4, jp.models.resnet_cifar(8, 2, 4), (8, 8, 3))
    for width in (10**5, 99999999):
        with pytest.raises(ValueError, match=f"width: .*{width}.*Take a smaller one"):
            fits("width", width, jp.models.resnet_cifar(8, 2, width), (8, 8, 3))


def test_run_keys_every_field_of_a_run(tmp_path):
    base = small.Run(0, 1, 1.0)
    keys = {records.key("small", dataclasses.replace(base, **change)) for change in ({}, {"seed": 1}, {"scale": 1.5})}
    assert len(keys) == 3
    assert records.key("small", dataclasses.replace(base, scale=1)) == records.key("small", base)


def test_command_of_is_the_command_that_has_these_settings(monkeypatch):
    settings = small.Settings(seeds=(3, 4), scale=0.5, out=Path("some where"), worker=True, workers=7)
    words = study.command_of("small", settings)
    # How it was carried out decides nothing.
    assert words == "python -m experiments.small --seeds 3 4 --out 'some where' --scale 0.5"
    monkeypatch.setattr(sys, "argv", shlex.split(words.removeprefix("python -m ")))
    assert study._read("small", small.Settings, "") == dataclasses.replace(settings, worker=False, workers=2)
    assert study.command_of("small", small.Settings()) == "python -m experiments.small"
    own = transfer.Settings(methods=(small.smallest_first, "random"), recalibrate=True)
    assert study.command_of("transfer", own).endswith(
        "--recalibrate --methods tests.experiments.small:smallest_first random"
    )


def test_run_ends_its_page_with_command_date_and_links_to_its_tables(tmp_path):
    page, _ = made(tmp_path, scale=2.0)
    text = page.read_text()
    assert f"python -m experiments.small --seeds 0 1 --out .../{tmp_path.name} --scale 2.0</pre>" in text
    (date,) = {json.loads(path.read_text())["provenance"]["date"] for path in (tmp_path / "records").iterdir()}
    assert f"6 runs on {date}," in text
    linked = set(re.findall(r'<a href="(\w+\.csv)">', text))
    assert linked == {path.name for path in tmp_path.glob("*.csv")}
