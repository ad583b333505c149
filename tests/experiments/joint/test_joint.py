"""The study of joint pruning, at a size that runs in a test: resuming, what lies on disk, bad values."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from experiments.joint_settings import PAPER, Settings, Study, grid, quirks, resolved, trajectory, validate
from experiments.joint_trajectory import Trajectory

import jaxprune as jp
from experiments import joint_pruning, joint_search
from jaxprune import records
from tests import studies

TINY = {
    "width": 2,
    "pretrain_steps": 3,
    "brief_steps": 1,
    "long_steps": 2,
    "batch_size": 16,
    "target": 0.3,
    "severities": (1,),
    "epsilons": (0.01,),
    "layer_criterion": "l2",
    "neuron_criterion": "l2",
    "allocation": "normalised",
}


def tiny(out, **changes):
    return Study(**{**TINY, "choosers": ("cka",), "seeds": (0,), "out": out, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = {**TINY, "choosers": ("cka",), "seeds": (0,)}
    return studies.make("joint_pruning", settings, tmp_path_factory.mktemp("joint"))


def test_joint_pruning_keeps_what_every_study_promises(made, monkeypatch):
    studies.check_promises(made, monkeypatch)


@pytest.fixture
def finished(made):
    (record,) = made.records()
    return made.study, record


@pytest.fixture(autouse=True)
def float32(float64):
    """The study runs as its users run it."""
    jax.config.update("jax_enable_x64", False)


def test_joint_pruning_ends_at_the_target_and_every_step_loads(finished):
    study, record = finished
    steps = record["metrics"]["steps"]
    assert steps[-1]["macs"] <= 0.7 * steps[0]["macs"] < steps[-2]["macs"]
    (trajectory,) = (study.out / "trajectories").iterdir()
    for step in steps:
        specification, network = jp.structured.load(trajectory / f"step_{step['number']:03}", jp.models.specification)
        assert jp.cost.macs(network, (8, 8, 1)) == step["macs"]
        assert jp.cost.parameters(network) == step["parameters"]
        assert specification.describe() == step["shape"]


def test_joint_pruning_records_the_hits_of_the_saved_networks(finished):
    study, record = finished
    images = jp.data.digits()
    parts = jp.data.split(images.labels, images.name, 0, joint_pruning.FRACTIONS)
    test = jp.data.select(images, parts["test"])
    (trajectory,) = (study.out / "trajectories").iterdir()
    last = record["metrics"]["steps"][-1]
    _, network = jp.structured.load(trajectory / f"step_{last['number']:03}", jp.models.specification)
    outputs = np.asarray(network(test["image"]))
    hits = "".join("01"[int(hit)] for hit in outputs.argmax(1) == test["label"])
    assert hits == last["hits"] == record["metrics"]["robustness"][str(last["number"])]["clean"]
    exported = jax.export.deserialize(bytearray((trajectory / "final.jaxexport").read_bytes()))
    np.testing.assert_allclose(exported.call(test["image"]), outputs, rtol=1e-4, atol=1e-5)


def test_trajectory_of_another_run_is_refused(finished):
    study, _ = finished
    (folder,) = (study.out / "trajectories").iterdir()
    with pytest.raises(ValueError, match=r"out: .* holds the trajectory of another run"):
        Trajectory(folder, {"seed": 7})


def test_trajectory_names_a_damaged_step(finished, tmp_path):
    study, _ = finished
    (folder,) = (study.out / "trajectories").iterdir()
    identity = json.loads((folder / "run.json").read_text())
    copy = tmp_path / "copy"
    for path in folder.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(folder)).write_bytes(path.read_bytes())
    notes = copy / "step_001" / "step.json"
    notes.write_text(notes.read_text()[:40])
    with pytest.raises(ValueError, match=r"out: the step in '.*step_001' is damaged .* Delete this step"):
        Trajectory(copy, identity).steps()


def test_resolved_takes_the_paper_quirk_by_quirk(tmp_path):
    study = resolved(tiny(tmp_path, paper=True))
    # What the user set stays; the rest is as in the authors' code.
    assert study.layer_criterion == "l2"
    assert study.target == 0.3
    untouched = resolved(Study(paper=True))
    assert all(getattr(untouched, name) == value for name, (value, _) in PAPER.items())
    assert validate(untouched) is not None


def test_trajectory_does_not_depend_on_what_is_measured(tmp_path):
    configs = [
        dataclasses.asdict(grid(tiny(tmp_path, **change))[0]) for change in ({}, {"checkpoints": 0}, {"width": 3})
    ]
    assert trajectory(configs[0]) == trajectory(configs[1]) != trajectory(configs[2])
    assert trajectory(json.loads(json.dumps(configs[0]))) == trajectory(configs[0])


def test_quirks_are_told_only_where_they_are_the_papers():
    told = " ".join(quirks(resolved(Study(paper=True, allocation="global"))))
    assert "allocation = global: set by you; the authors have paper" in told
    assert PAPER["choose_on"][1] in told


def test_distilled_takes_the_share_of_the_parent():
    loss = joint_search.Distilled(0.25)
    outputs = np.array([[0.5, -1.0, 2.0]], np.float32)
    batch = {"label": np.array([1]), "teacher": np.array([[0.2, 0.3, 0.5]], np.float32)}
    logs = outputs - np.log(np.exp(outputs).sum())
    expected = -0.75 * logs[0, 1] - 0.25 * (logs[0] * batch["teacher"][0]).sum()
    np.testing.assert_allclose(loss(outputs, batch), [expected], rtol=1e-5)


@pytest.mark.parametrize(("count", "steps", "expected"), [(4, 8, [0, 2, 5, 7]), (0, 3, [0, 1, 2]), (4, 2, [0, 1])])
def test_checkpoints_are_even(count, steps, expected):
    assert joint_pruning.checkpoints(count, steps) == expected


BAD = {
    "choosers": (("ck",), r"choosers: unknown value 'ck'. Did you mean 'cka'"),
    "budgets": (("flops",), r"budgets: unknown value 'flops'"),
    "layer_criterion": ("l3", r"layer_criterion: unknown value 'l3'"),
    "allocation": ("paper", r"budgets: the allocation of the paper needs the budget 'filters'"),
    "target": (1.0, r"target: expected a share in \[0, 1\), but got 1.0"),
    "seeds": ((0, 0), r"seeds: expected one or more, each of them once"),
    "severities": ((7,), r"severities: expected numbers from 1 to 5, but got 7"),
    "epsilons": ((float("nan"),), r"epsilons: expected finite shares"),
    "brief_steps": (2.5, r"brief_steps: expected a whole number, but got 2.5"),
    "checkpoints": (1, r"checkpoints: expected 0 \(all\), or 2 or more"),
    "depth": (14, r"depth: expected 20 or more, so that a stage has a block that can go, but got 14"),
    "watts": (0.0, r"watts: expected a finite number above 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_validate_names_bad_values_before_anything_starts(name, tmp_path):
    value, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        validate(dataclasses.replace(Study(out=tmp_path), **{name: value}))


def test_key_of_a_run_is_of_what_decides_its_numbers(tmp_path):
    (one,) = grid(tiny(tmp_path))
    (other,) = grid(tiny(tmp_path / "elsewhere", watts=1.0, margin=0.5))
    assert records.key("joint_pruning", one) == records.key("joint_pruning", other)
    assert {field.name for field in dataclasses.fields(Settings)}.isdisjoint({"watts", "margin", "out"})
