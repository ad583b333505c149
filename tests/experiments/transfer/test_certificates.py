"""What the transfer study certifies, from answers that are known."""

from typing import Any

import numpy as np
import pytest

from experiments import transfer
from experiments.transfer.certificates import certificates
from experiments.transfer.results import Results
from jaxprune.evaluate import safety

SPARSITIES = (0.5, 0.7, 0.9)
WRONG = {0.5: 0, 0.7: 1, 0.9: 40}  # of the answers to images of every task


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


def results(inputs: Any) -> Results:
    found = []
    for seed in (0, 1):
        for sparsity in (0.0, *SPARSITIES):
            score = "magnitude" if sparsity else "dense"
            config = {"seed": seed, "objective": "none", "score": score, "update": "none", "sparsity": sparsity}
            metrics = {"source": "0-4", "domains": {}, "certificate": answers(inputs, seed, WRONG.get(sparsity, 0))}
            found.append({"config": config, "metrics": metrics, "data": ""})
    return Results(found, inputs)


def test_certificates_are_those_of_the_counts_for_every_seed_role_and_kind(inputs):
    lines = certificates(results(inputs), 0.05)
    assert len(lines) == 2 * 2 * 2
    for one in lines:
        tasks = inputs.tasks if one.role == "all" else [task for task in inputs.tasks if task.name == "5-9"]
        n = sum(len(inputs.indices(one.seed, "certificate", task.classes)[1]) for task in tasks)
        p = safety.p_values(np.array([WRONG[rung] * len(tasks) for rung in SPARSITIES]), n, 0.05)
        count = int(safety.fixed_sequence(p, 0.05))
        assert one.reached == (0.0, *SPARSITIES)[count]
        assert not isinstance(one.found, str)
        assert ("without their labels" in str(one.found)) == (not one.labels)
        assert one.found.outcomes[0].n == n


def test_certificates_say_how_many_images_are_missing(inputs):
    lines = certificates(results(inputs), 0.01)
    assert all(isinstance(one.found, str) and "299" in one.found and not one.reached for one in lines)


def test_certificates_are_of_images_that_serve_nothing_else(inputs):
    for seed in (0, 1):
        parts = ("pretraining", "scoring", "head", "finetuning", "selection", "test", "certificate")
        found = [inputs.identities(seed, name) for name in parts]
        assert len(set().union(*found)) == sum(map(len, found)) == len(inputs.images)
