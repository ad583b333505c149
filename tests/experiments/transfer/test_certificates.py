"""What the transfer study certifies, from answers that are known."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from experiments import transfer
from experiments.transfer.certificates import certificates
from experiments.transfer.results import Results
from experiments.transfer.settings import Rung
from jaxprune.evaluate import safety

LOWER, SPARSITIES = (0.25,), (0.5, 0.7, 0.9)
RUNGS = (*LOWER, *SPARSITIES)
WRONG = {0.25: 0, 0.5: 0, 0.7: 1, 0.9: 40}  # of the answers to images of every task


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    settings = transfer.Settings(
        methods=("magnitude",), sparsities=SPARSITIES, seeds=(0, 1), out=tmp_path_factory.mktemp("c")
    )
    return transfer.open_study(settings)


def answers(inputs: Any, seed: int, wrong: int) -> dict[str, Any]:
    """The dense network is right but for one image of a task; of a pruned one ``wrong`` more answers are others."""
    found = {}
    for task in inputs.tasks:
        labels = inputs.part(seed, "certificate", task.classes)["label"]
        predicted = labels.copy()
        predicted[: wrong + 1] = (labels[: wrong + 1] + 1) % 5
        hits = "".join("01"[int(hit)] for hit in predicted == labels)
        found[task.name] = {"predicted": predicted.tolist(), "hits": hits}
    return found


def results(inputs: Any, wrong: Any = WRONG) -> Results:
    found = []
    for seed in (0, 1):
        for sparsity in (0.0, *RUNGS):
            score, kind = "magnitude" if sparsity else "dense", "Rung" if sparsity in LOWER else "Run"
            config = {"seed": seed, "objective": "none", "score": score, "update": "none", "sparsity": sparsity}
            config["@type"] = kind
            metrics = {"source": "0-4", "domains": {}, "certificate": answers(inputs, seed, wrong.get(sparsity, 0))}
            found.append({"config": config, "metrics": metrics, "data": ""})
    return Results(found, inputs)


def test_certificates_are_those_of_the_counts_for_every_seed_role_and_kind(inputs):
    lines = certificates(results(inputs), 0.05)
    assert len(lines) == 2 * 2 * 2
    for one in lines:
        tasks = inputs.tasks if one.role == "all" else [task for task in inputs.tasks if task.name == "5-9"]
        n = sum(len(inputs.indices(one.seed, "certificate", task.classes)[1]) for task in tasks)
        p = safety.p_values(np.array([WRONG[rung] * len(tasks) for rung in RUNGS]), n, 0.05)
        count = int(safety.fixed_sequence(p, 0.05))
        assert one.reached == (0.0, *RUNGS)[count]
        assert not isinstance(one.found, str)
        assert ("without their labels" in str(one.found)) == (not one.labels)
        assert one.found.outcomes[0].n == n


def test_certificates_begin_at_the_lowest_rung(inputs):
    found = results(inputs, {0.25: 0, 0.5: 40, 0.7: 0, 0.9: 0})
    assert found.sparsities == list(SPARSITIES), "tables are of the networks that were tested"
    assert {one.reached for one in certificates(found, 0.05)} == {0.25}
    assert {one.reached for one in certificates(results(inputs, {0.25: 40}), 0.05)} == {0.0}


def test_plan_adds_rungs_below_the_sparsities_that_are_tested(inputs):
    def planned(**changed: Any) -> list[Any]:
        return transfer.STUDY.plan(dataclasses.replace(inputs.settings, seeds=(0,), **changed), inputs)

    assert [(type(one).__name__, one.sparsity) for one in planned()[1:]] == [
        ("Rung", 0.25),
        ("Run", 0.5),
        ("Run", 0.7),
        ("Run", 0.9),
    ]
    assert not any(isinstance(one, Rung) for one in planned(rungs=()))
    assert not any(isinstance(one, Rung) for one in planned(sparsities=(0.2,)))
    with pytest.raises(ValueError, match="rungs: expected"):
        transfer.open_study(dataclasses.replace(inputs.settings, rungs=(0.0,)))


def test_certificates_say_how_many_images_are_missing(inputs):
    lines = certificates(results(inputs), 0.01)
    assert all(isinstance(one.found, str) and "299" in one.found and not one.reached for one in lines)


def test_certificates_are_of_images_that_serve_nothing_else(inputs):
    for seed in (0, 1):
        parts = ("pretraining", "scoring", "head", "finetuning", "selection", "test", "certificate")
        found = [inputs.identities(seed, name) for name in parts]
        assert len(set().union(*found)) == sum(map(len, found)) == len(inputs.images)
