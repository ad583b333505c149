import io
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments import landscape
from experiments.landscape import measures
from experiments.landscape.results import Results
from experiments.shared import frozen_heads
from experiments.shared.study import run
from jaxprune.store import Store
from tests.experiments import small, studies

SMOKE: dict[str, Any] = {
    "data": "tests.experiments.small:few_digits",
    "pretrain_steps": 5,
    "finetune_steps": 2,
    "finetune_rate": 2e-3,
    "width": 1,
    "penalties": (1.0,),
    "methods": ("random",),
    "seeds": (0,),
    "count": 2,
    "steps": 3,
    "probes": 1,
    "trace_probes": 2,
    "points": 3,
}


def asked(out: Path, **options: Any) -> landscape.Settings:
    return landscape.Settings(**{**SMOKE, **options}, out=out)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return studies.make("landscape", SMOKE, tmp_path_factory.mktemp("landscape"))


def test_landscape_keeps_what_every_study_promises(made, monkeypatch):
    studies.check_promises(made, monkeypatch)


def test_landscape_leaves_a_record_of_every_run_with_finite_numbers_that_agree(made):
    out = made.whole
    inputs = landscape.open_study(asked(out))
    runs = landscape.plan(inputs.settings, inputs)
    assert [one.score for one in runs] == ["dense", "random"]
    store = Store(out, "landscape", version=landscape.STUDY.version, data=inputs.fingerprint)
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


def test_landscape_says_on_its_page_what_came_out(made):
    out = made.whole
    text = (out / "index.html").read_text()
    assert text.count("<svg role=") == 8
    assert "One seed: nothing is decided about others" in text
    for name in ("verdicts", "spectra", "curves"):
        assert (out / f"{name}.csv").read_text().count("\n") > 4
    assert "nan" not in (out / "verdicts.csv").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity: expected a fraction in \[0, 1\)"),
        ({"matrix": "hesian"}, "matrix: unknown value 'hesian'. Did you mean 'hessian'"),
        ({"methods": ("randon",)}, "methods: unknown value 'randon'. Did you mean 'random'"),
        ({"methods": ()}, r"methods: expected one or more, each of them once, but got \(\)"),
        ({"transfer": "5-8"}, "task: unknown value '5-8'. Did you mean '5-9'"),
        ({"transfer": "0-4"}, "task: unknown value '0-4'"),
        ({"count": 4}, r"count: expected at most steps \(3\), but got 4\. Take more steps"),
        ({"probes": 0}, "probes: expected a finite number above 0"),
        ({"points": 2}, "points: expected a whole number of 3 or more, but got 2"),
        ({"reach": -1.0}, "reach: expected a finite number above 0"),
        ({"margin": 0.0}, "margin: expected a finite number above 0"),
        ({"seeds": (0, 0)}, r"seeds: expected one or more, each of them once"),
        ({"width": 0}, "width: expected a finite number above 0"),
    ],
)
def test_landscape_finds_a_bad_value_before_anything_expensive(tmp_path, monkeypatch, change, message):
    studies.refused("landscape", tmp_path, monkeypatch, message, **{**SMOKE, **change})


def test_landscape_takes_a_network_of_ones_own_and_tunes_it_in_another_order_at_the_rate_that_was_chosen(
    tmp_path, monkeypatch
):
    again, finetuned_at = [], measures.finetuned_at
    monkeypatch.setattr(
        measures, "finetuned_at", lambda *given, order: again.append((given[-1], order)) or finetuned_at(*given, order)
    )
    monkeypatch.setattr(frozen_heads, "selection_accuracy", lambda world, network: next(found))
    found = iter([0.5, 0.5, 0.5, 0.6, 0.7, 0.6])  # of the dense network twice: shared, and in its own run
    with jax.enable_x64(False):
        settings = {**SMOKE, "network": small.network, "data": small.images, "batch_size": 16}
        settings |= {"finetune_rate": None, "finetune_rates": (1e-2, 1e-3)}
        page = run(landscape.STUDY, asked(tmp_path, **settings), Console(file=io.StringIO()))
    assert "tests.experiments.small:network" in page.read_text()
    assert len(list((tmp_path / "records").iterdir())) == 2
    assert not list((tmp_path / "failed").iterdir())
    records = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")]
    rates = {record["config"]["score"]: record["metrics"]["finetune_rate"] for record in records}
    assert rates == {"dense": 1e-2, "random": 1e-3}
    assert again == [(1e-2, 10**6), (1e-3, 10**6)]


def test_command_of_landscape_explains_its_errors(monkeypatch, capsys):
    code, text = studies.said("landscape", ["--matrix", "hesian"], monkeypatch, capsys)
    assert code == 2
    assert text.startswith("error: matrix: unknown value 'hesian'. Did you mean 'hessian'?")


def test_rise_is_the_height_of_a_barrier_inside_the_path_and_may_be_below_zero():
    """Three seeds: a bump, a valley, and a slope that is its own chord."""
    losses = [[1.0, 2.0, 3.0], [1.0, 0.5, 1.0], [1.0, 2.0, 3.0]]
    losses[0][1] = 4.0
    records = [
        {
            "config": {"objective": "none", "score": "random", "update": "none", "seed": seed},
            "metrics": {"barriers": {"pair": {"source": {"shares": [0.0, 0.5, 1.0], "losses": one}}}},
        }
        for seed, one in enumerate(losses)
    ]
    np.testing.assert_allclose(Results(records, None).rise("random", "pair", "source"), [1.0, -0.5, 0.0])


def test_opening_of_the_landscape_has_at_most_120_words(made):
    summary = re.search(r'class="summary">(.*?)</p>', (made.whole / "index.html").read_text())[1]
    assert 30 < len(summary.split()) <= 120
