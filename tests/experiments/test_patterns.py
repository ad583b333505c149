"""The fifth study: as much as any other owes, and what is its own."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import load, patterns
from experiments.shared.results import Results
from jaxprune.store import Store
from tests.experiments import studies

SMOKE: dict[str, Any] = {
    "data": "tests.experiments.small:few_digits",
    "pretrain_steps": 5,
    "finetune_steps": 2,
    "finetune_rate": 2e-3,
    "width": 4,
    "penalties": (1.0,),
    "patterns": ("2:4", "1:2"),
    "methods": ("magnitude", "random"),
    "seeds": (0,),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return studies.make("patterns", SMOKE, tmp_path_factory.mktemp("patterns"))


def test_patterns_keeps_what_every_study_promises(made, monkeypatch):
    studies.check_promises(made, monkeypatch)


def test_patterns_compares_masks_of_equal_sparsity(made):
    inputs = patterns.open_study(patterns.Settings(**SMOKE, out=made.whole))
    store = Store(made.whole, "patterns", version=patterns.STUDY.version, data=inputs.fingerprint)
    sparsity = {(one.score, one.pattern, one.kind): store.read(one)["metrics"]["sparsity"] for one in
                patterns.plan(inputs.settings, inputs)}  # fmt: skip
    assert sparsity.pop(("dense", "", "")) == 0
    for (score, pattern, _), value in sparsity.items():
        assert value == sparsity[score, pattern, "n:m"]
        assert 0.45 < value < 0.5  # the kernel of one grey channel stays dense


def test_claims_pair_an_n_of_m_mask_with_its_control(made):
    verdicts = load(made.whole).verdicts
    assert verdicts.groupby("claim").size().to_dict() == {
        "pattern is free, source": 4,
        "pattern is free, transfer": 4,
        "choice matters, source": 2,
        "choice matters, transfer": 2,
    }
    records = sorted(made.records(), key=lambda one: one["config"]["score"] != "dense")  # as the plan has them
    inputs = patterns.open_study(made.asked)
    results = Results(records, inputs)
    without = Results([one for one in records if one["config"]["score"] != "random"], inputs)
    assert {one.name: len(list(one.cases(without))) for one in patterns.claims(made.asked)} == {
        "pattern is free, source": 2,
        "pattern is free, transfer": 2,
        "choice matters, source": 0,
        "choice matters, transfer": 0,
    }
    pair = [results.of(method="magnitude", pattern="2:4", kind=kind)[0] for kind in patterns.KINDS]
    sides = [np.array([hit == "1" for hit in one["finetuned"]["5-9"]["hits"]]) for one in pair]
    row = verdicts[(verdicts.claim == "pattern is free, transfer") & (verdicts.method == "magnitude")].iloc[0]
    np.testing.assert_allclose(row["mean"], sides[0].mean() - sides[1].mean())
    assert (row.n, row.unit) == (len(sides[0]), "share")


def test_select_keeps_n_of_every_m_and_leaves_what_m_does_not_divide():
    scores = {name: np.random.default_rng(0).normal(size=shape) for name, shape in {"a": (8, 4), "b": (3, 4)}.items()}
    for kind in patterns.KINDS:
        mask = jax.tree.map(np.asarray, patterns.select(scores, {"a": True, "b": True}, pattern="2:8", kind=kind))
        assert mask["a"].sum() == 8
        assert mask["b"].all()
    assert (patterns.select(scores, {"a": True, "b": True}, pattern="2:8", kind="n:m")["a"].sum(axis=0) == 2).all()
    with pytest.raises(ValueError, match="prunable"):
        patterns.select(scores, {"a": True, "b": True}, pattern="1:5", kind="n:m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patterns": ("2-4",)}, "patterns: expected n:m with 0 < n < m, such as 2:4, but got '2-4'"),
        ({"patterns": ("4:4",)}, "patterns: expected n:m with 0 < n < m"),
        ({"patterns": ()}, r"patterns: expected one or more, each of them once, but got \(\)"),
        ({"methods": ("randon",)}, "methods: unknown value 'randon'. Did you mean 'random'"),
        ({"margin": 0.0}, "margin: expected a finite number above 0"),
        ({"rounds": 2}, "rounds: unknown value '2'. Known: 1"),
    ],
)
def test_patterns_finds_a_bad_value_before_anything_expensive(tmp_path, monkeypatch, change, message):
    studies.refused("patterns", tmp_path, monkeypatch, message, **{**SMOKE, **change})


def test_patterns_is_a_study_in_a_hundred_and_fifty_lines():
    assert Path(patterns.__file__).read_text().count("\n") < 150
