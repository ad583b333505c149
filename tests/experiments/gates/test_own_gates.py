"""The study of gates of a network of the user's own: its units are found, and judged as those of the ViT are."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import gates
from experiments.shared import study
from experiments.shared.discovered import behind_head
from experiments.shared.pretrained import own
from tests.experiments import small

OWN = {
    "network": "tests.experiments.small:deeper",
    "data": "tests.experiments.small:images",
    "finetune_steps": 2,
    "finetune_rate": 2e-3,
    "penalties": (1.0,),
    "shares": (0.5,),
    "distances": ("kl",),
    "methods": ("logits/joint+readjusted", "label/diagonal+readjusted", "activation+readjusted", "random"),
    "seeds": (0,),
}


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


def test_gates_judges_the_units_of_a_network_of_ones_own(tmp_path):
    """Those before its features, which heads read as they are; also in the state, behind a head."""
    study.run(gates.STUDY, gates.Settings(**OWN, out=tmp_path))
    records = [json.loads(path.read_text()) for path in (tmp_path / "records").rglob("*.json")]
    found = {one["config"]["score"]: one["metrics"] for one in records}
    assert set(found) == {"dense", "joint", "diagonal", "activation", "random"}
    assert {json.dumps(one["left"]) for name, one in found.items() if name != "dense"} == {'{"first": 3}'}
    assert found["dense"]["left"] == {"first": 6}
    far = {name: np.mean(np.concatenate(list(one["divergence"].values()))) for name, one in found.items()}
    assert far["dense"] < 1e-6 < far["joint"] < far["random"]
    text = (tmp_path / "index.html").read_text()
    assert "A network trained on other data (tests.experiments.small:deeper) loses units that are found" in text
    assert "ViT" not in text


def test_units_behind_a_head_are_called_as_its_state_is():
    network = small.deeper()
    (group,) = gates.arms.units(own(network), (8, 8, 1), prove=False)
    assert {one.leaf for one in group.members} == {"first/kernel", "first/scale", "mean", "second/kernel"}
    (named,) = behind_head([group], network)
    assert {one.leaf for one in named.members} == {"first/kernel", "first/scale", "network/mean", "second/kernel"}
    assert dataclasses.replace(named, members=()) == dataclasses.replace(group, members=())
