import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxprune as jp
from experiments import transfer
from experiments.shared import check_page, frozen_heads
from experiments.shared.architectures import filled
from experiments.shared.study import run
from experiments.transfer.settings import Rung
from jaxprune.store import Store
from tests.experiments import studies

ROOT = Path(__file__).parents[3]
SMOKE: dict[str, Any] = {
    "data": "tests.experiments.small:few_digits",
    "pretrain_steps": 20,
    "finetune_steps": 2,
    "finetune_rate": 2e-3,
    "width": 2,
    "penalties": (1.0,),
    "methods": ("magnitude", "random"),
    "sparsities": (0.5, 0.9),
    "seeds": (0,),
    "shifts": ("noise",),
    "rounds": 2,
}


def asked(out: Path, **options: Any) -> transfer.Settings:
    return transfer.Settings(**{**SMOKE, **options}, out=out)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return studies.make("transfer", SMOKE, tmp_path_factory.mktemp("transfer"), shards="1/2 2/2")


def test_transfer_keeps_what_every_study_promises(made, monkeypatch):
    studies.check_promises(made, monkeypatch)


def test_compose_writes_at_most_700_words_beside_tables(made):
    counts = check_page.check((made.whole / "index.html").read_text())
    assert counts["words of running text, captions included"][0] <= 700
    assert 30 < counts["words of the summary"][0] <= 120


def test_transfer_leaves_a_record_of_every_run_that_fits_its_digest(made):
    found = studies.digests(made.whole)
    inputs = transfer.open_study(asked(made.whole))
    runs = transfer.plan(inputs.settings, inputs)
    assert len(runs) == len(found) == 7
    store = Store(made.whole, "transfer", version=transfer.STUDY.version, data=inputs.fingerprint)
    tested = {task.name: len(inputs.part(0, "test", task.classes)["label"]) for task in inputs.tasks}
    for one in runs:
        record = store.read(one)
        assert record["digest"] == found[store.path(one).name]
        assert (record["config"]["score"], record["config"]["update"], record["config"]["sparsity"]) == (
            one.score,
            one.update,
            one.sparsity,
        )
        np.testing.assert_allclose(record["metrics"]["sparsity"], one.sparsity, atol=1e-3)
        assert set(record["metrics"]["certificate"]) == {"0-4", "5-9"}
        if isinstance(one, Rung):
            assert one.sparsity == 0.25
            assert "pruned" not in record["metrics"]
            continue
        assert set(record["metrics"]["domains"]) == {"0-4", "5-9", "0-4 + noise", "5-9 + noise"}
        for stage in ("pruned", "finetuned"):
            for kind in ("frozen", "refitted"):
                for name, one in record["metrics"][stage][kind].items():
                    assert one["n"] == len(one["hits"]) == tested[name.removesuffix(" + noise")]
                    assert one["accuracy"] == pytest.approx(one["hits"].count("1") / one["n"])
        assert record["provenance"]["packages"]["jax"]
    assert store.read(runs[0])["metrics"]["loss_increase"]["true"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "digit"}, "data: unknown value 'digit'. Did you mean 'digits'"),
        ({"data": "tfds:mnits"}, "data: tfds: unknown value 'mnits'. Did you mean 'mnist'"),
        ({"source": "0-5"}, "task: unknown value '0-5'. Did you mean '0-4'"),
        ({"methods": ("magnitude", "randon")}, "methods: unknown value 'randon'. Did you mean 'random'"),
        ({"head": "rigde"}, "head: unknown value 'rigde'. Did you mean 'ridge'"),
        ({"label_loss": "cross-entropy"}, "label_loss: unknown value 'cross-entropy'. Did you mean 'cross_entropy'"),
        ({"shifts": ("nose",)}, "shifts: unknown value 'nose'. Did you mean 'noise'"),
        (
            {"sparsities": (0.5, 1.0)},
            r"sparsities: expected a fraction in \[0, 1\).*To remove 90 % of the weights pass 0.9",
        ),
        ({"sparsities": (-0.1,)}, r"sparsities: expected a fraction in \[0, 1\)"),
        (
            {"rungs": (0.3, 0.5)},
            r"rungs: expected sparsities below the lowest of sparsities, 0\.5, but got \(0\.3, 0\.5\)",
        ),
        ({"shard": "3/2"}, "shard: expected i/n with 1 <= i <= n, such as 2/4, but got '3/2'"),
        ({"shard": "0/2"}, "shard: expected i/n"),
        ({"shard": "one"}, "shard: expected i/n"),
        ({"methods": ()}, r"methods: expected one or more, each of them once, but got \(\)"),
        ({"seeds": ()}, r"seeds: expected one or more, each of them once, but got \(\)"),
        ({"seeds": (0, 1, 0)}, r"seeds: expected one or more, each of them once, but got \(0, 1, 0\)"),
        ({"image": 0}, "image: expected a finite number above 0"),
        ({"pretrain_steps": 0}, "pretrain_steps: expected a finite number above 0, but got 0"),
        ({"finetune_rate": float("inf")}, "finetune_rate: expected a finite number above 0, but got inf"),
        (
            {"finetune_rates": (1e-3, 1e-2)},
            r"finetune_rate, finetune_rates: expected one of them, but got 0.002 and \(0.001, 0.01\)\. Pass",
        ),
        (
            {"finetune_rate": None, "finetune_rates": (1e-3, -1.0)},
            r"finetune_rates: expected a finite number above 0, but got -1\.0",
        ),
        (
            {"finetune_rate": None, "finetune_rates": (1e-3, 1e-3)},
            r"finetune_rates: expected one or more, each of them once, but got \(0\.001, 0\.001\)",
        ),
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
    studies.refused("transfer", tmp_path, monkeypatch, message, **{**SMOKE, **change})


def test_transfer_names_a_folder_that_cannot_be_written_before_anything_expensive(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"out: cannot write in '.*file/results' \(Not a directory\). Choose a folder"):
        run(transfer.STUDY, asked(tmp_path / "file" / "results"))


def test_plan_holds_every_cell_once_and_every_seeds_dense_network(tmp_path):
    inputs = transfer.open_study(asked(tmp_path, seeds=(0, 1)))
    runs = [one for one in transfer.plan(inputs.settings, inputs) if not isinstance(one, Rung)]
    cells = [(one.seed, one.score, one.sparsity) for one in runs]
    assert len(set(cells)) == len(cells) == 2 * (1 + 2 * 2)
    assert [cell[2] for cell in cells if cell[1] == "dense"] == [0.0, 0.0]


def test_command_of_transfer_explains_itself_and_its_errors(monkeypatch, capsys):
    def said(*words):
        return studies.said("transfer", list(words), monkeypatch, capsys)

    code, text = said("--help")
    assert code == 0
    assert all(flag in text for flag in ("--methods", "--sparsities", "--shard", "--out", "--worker", "--dry-run"))
    assert all(value in text for value in ("quadratic", "nearest-mean", "cross_entropy", "public-proxy"))
    code, text = said("--budgets", "macs")
    assert code == 2
    assert text.startswith("error: --budgets: the study transfer has no such option. See ")
    code, text = said("--sparsities", "many")
    assert (code, "--sparsities" in text) == (2, True)
    code, text = said("--data", "digit")
    assert code == 2
    assert text.startswith("error: data: unknown value 'digit'. Did you mean 'digits'?")


# That a message such as those above ends in one line is Python's own doing; here it is seen once.
def test_command_of_transfer_runs_as_a_module():
    words = [sys.executable, "-m", "experiments.transfer", "--data", "digit"]
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, timeout=900, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: data: unknown value 'digit'. Did you mean 'digits'?")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("sent", "code", "line"), [(signal.SIGTERM, 143, "stopped by"), (signal.SIGINT, 130, "interr")]
)
def test_command_of_transfer_ends_with_the_code_of_its_signal(tmp_path, sent, code, line):
    """In the middle of compiling, whose threads crash an interpreter that shuts down under them."""
    words = [sys.executable, "-m", "experiments.transfer", "--seeds", "0", "--out", str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        shown = running.stdout.readline()
        running.send_signal(sent)
        _, text = running.communicate(timeout=900)
    settings = transfer.Settings(seeds=(0,), out=tmp_path)
    count = len(transfer.plan(settings, transfer.open_study(settings)))
    assert shown == f"{count} runs, {count} of them to do here.\n"
    assert running.returncode == code
    assert text.splitlines()[-1].startswith(line)
    assert not list((tmp_path / "claims").iterdir())


def test_pretrain_never_shares_networks_of_other_images(tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr(jp.train, "fit", lambda *_, folder, **__: folders.append(folder))
    settings, images = filled(asked(tmp_path)), np.zeros((2, 8, 8, 1), np.float32)
    for side in (8, 16, 8):
        data = {"image": np.zeros((2, side, side, 1), np.float32), "label": np.array([0, 1])}
        frozen_heads.pretrain(settings, 0, data, 2)
    frozen_heads.pretrain(settings, 0, {"image": images + 1, "label": np.array([0, 1])}, 2)
    assert folders[0] == folders[2]
    assert len(set(folders)) == 3
