"""The study of joint pruning, at a size that runs in a test: resuming, what lies on disk, bad values."""

import dataclasses
import functools
import json
import shutil
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import jaxprune as jp
from experiments import joint
from experiments.joint import search, tables
from experiments.joint.settings import FRACTIONS, PAPER, Decisive, quirks, resolved, search_identity, trajectory_folder
from experiments.joint.trajectory import Trajectory
from experiments.shared.images import Sources
from jaxprune import exclusive, records
from tests.experiments import small, studies

TINY: dict[str, Any] = {
    "data": "tests.experiments.small:images",
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
    "choosers": ("cka",),
    "seeds": (0,),
}


def tiny(**changes):
    return joint.Settings(**{**TINY, **changes})


def config(**changes):
    """The settings of the first run, as its record keeps them."""
    return records.plain(joint.plan(tiny(**changes), None)[0])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return studies.make("joint", TINY, tmp_path_factory.mktemp("joint"))


def test_joint_keeps_what_every_study_promises(made, monkeypatch):
    studies.check_promises(made, monkeypatch)


@pytest.fixture
def finished(made):
    """The only record, and the folder of its trajectory."""
    (record,) = made.records()
    (trajectory,) = (made.whole / "trajectories").iterdir()
    return record, trajectory


@pytest.fixture(autouse=True)
def float32(float64):
    """The study runs as its users run it."""
    jax.config.update("jax_enable_x64", False)


def test_joint_ends_at_the_target_and_every_step_loads(finished):
    record, trajectory = finished
    steps = record["metrics"]["steps"]
    assert steps[-1]["macs"] <= 0.7 * steps[0]["macs"] < steps[-2]["macs"]
    for step in steps:
        specification, network = jp.structured.load(trajectory / f"step_{step['number']:03}", jp.models.specification)
        assert jp.cost.macs(network, (8, 8, 1)) == step["macs"]
        assert jp.cost.parameters(network) == step["parameters"]
        assert specification.describe() == step["shape"]


def test_measure_records_objective_score_and_update_of_every_step(made, finished):
    first, *others = finished[0]["metrics"]["steps"]
    axes = [tuple(step[name] for name in ("objective", "score", "update")) for step in (first, *others)]
    assert axes == [("none", "dense", "none")] + [("none", "l2", "training")] * len(others)
    table = pd.read_csv(made.whole / "steps.csv", keep_default_na=False)
    assert list(zip(table.objective, table.score, table["update"], strict=True)) == axes


def test_measure_records_the_hits_of_the_saved_networks_and_times_aside(finished):
    record, trajectory = finished
    images = small.images()
    test = jp.data.select(images, jp.data.split(images.labels, images.name, 0, FRACTIONS)["test"])
    last = record["metrics"]["steps"][-1]
    _, network = jp.structured.load(trajectory / f"step_{last['number']:03}", jp.models.specification)
    outputs = np.asarray(network(test["image"]))
    hits = "".join("01"[int(hit)] for hit in outputs.argmax(1) == test["label"])
    assert hits == last["hits"] == record["metrics"]["robustness"][str(last["number"])]["clean"]
    exported = jax.export.deserialize(bytearray((trajectory / "final.jaxexport").read_bytes()))
    np.testing.assert_allclose(exported.call(test["image"]), outputs, rtol=1e-4, atol=1e-5)
    assert set(record["metrics"]) == {"steps", "robustness", "labels"}
    assert set(record["provenance"]["latency"]) == {"1", "64"}
    assert len(record["provenance"]["search_seconds"]) == last["number"]
    assert all(set(one) == {"compile", *tables.PARTS} for one in record["provenance"]["search_seconds"])


def test_tested_names_the_images_that_a_record_is_about(finished):
    record, _ = finished
    inputs = joint.open_study(tiny())
    images = inputs.tested(record["config"]["seed"])
    assert len(set(images)) == len(images)
    assert inputs.images.labels[images].tolist() == record["metrics"]["labels"]
    (run,) = joint.STUDY.results(inputs, [record]).runs
    assert run.examples.tolist() == images.tolist()


def test_trajectory_folder_is_that_of_the_record_and_says_all_that_decides_the_search(finished):
    record, trajectory = finished
    assert trajectory_folder(record["config"], record["data"]) == f"trajectories/{trajectory.name}"
    identity = search_identity(record["config"], record["data"])
    assert json.loads((trajectory / "run.json").read_text()) == identity
    decisive = {field.name for field in dataclasses.fields(Decisive)} | {"seed", "chooser", "budget"}
    assert decisive - {"checkpoints", "epsilons", "severities"} <= set(identity["search"])
    assert identity["data"] == joint.open_study(tiny()).fingerprint


def test_trajectory_of_another_search_is_refused(finished):
    with pytest.raises(ValueError, match=r"out: .* holds the trajectory of another search"):
        Trajectory(finished[1], {"seed": 7})


def test_trajectory_names_a_damaged_step(finished, tmp_path):
    identity = json.loads((finished[1] / "run.json").read_text())
    copy = shutil.copytree(finished[1], tmp_path / "copy")
    notes = copy / "step_001" / "step.json"
    notes.write_text(notes.read_text()[:40])
    with pytest.raises(ValueError, match=r"out: the step in '.*step_001' is damaged .* Delete this step"):
        Trajectory(copy, identity).steps()


def test_trajectory_of_a_version_that_did_not_measure_compilation_loads(finished, tmp_path):
    identity = json.loads((finished[1] / "run.json").read_text())
    copy = shutil.copytree(finished[1], tmp_path / "copy")
    notes = copy / "step_001" / "step.json"
    old = json.loads(notes.read_text())
    del old["seconds"]["compile"]
    notes.write_text(json.dumps(old))
    assert set(Trajectory(copy, identity).steps()[1].seconds) == set(tables.PARTS)


def test_trajectory_folder_is_of_all_that_decides_a_search_and_nothing_else():
    first = trajectory_folder(config(), "data")
    assert first == trajectory_folder(config(checkpoints=0, epsilons=(0.02,), severities=(2,)), "data")
    assert first == trajectory_folder(json.loads(json.dumps(config())), "data")
    assert first == trajectory_folder(config(width=2.0), "data")
    others = [config(width=3), config(seeds=(1,)), config(choosers=("random",)), config(budgets=("filters",))]
    names = {first, trajectory_folder(config(), "other data"), *(trajectory_folder(one, "data") for one in others)}
    assert len(names) == 6


def test_search_steps_holds_a_search_that_runs_share(tmp_path, monkeypatch):
    (run,) = joint.plan(tiny(), None)
    claim = (tmp_path / trajectory_folder(config(), "data")).with_suffix(".claim")
    held = []

    def searching(*_):
        held.append(exclusive.is_held(claim))
        raise RuntimeError("that is enough")

    monkeypatch.setattr(search, "make_search", lambda *_: searching)
    world: Any = SimpleNamespace(out=tmp_path, fingerprint="data", module=None, dense=None)
    with pytest.raises(RuntimeError, match="that is enough"):
        search.search_steps(run, world)
    assert held == [True]
    assert not exclusive.is_held(claim)


def test_resolved_takes_the_paper_quirk_by_quirk():
    settings = resolved(tiny(paper=True))
    # What the user set stays; the rest is as in the authors' code.
    assert settings.layer_criterion == "l2"
    assert settings.target == 0.3
    assert settings.optimizer == "sgd"
    untouched = joint.open_study(joint.Settings(paper=True)).settings
    assert all(getattr(untouched, name) == value for name, (value, _) in PAPER.items())


def test_quirks_are_told_only_where_they_are_the_papers():
    found = " ".join(quirks(resolved(joint.Settings(paper=True, allocation="global"))))
    assert "allocation = global: set by you; the authors have paper" in found
    assert PAPER["choose_on"][1] in found
    assert quirks(joint.Settings()) == []


def test_distilled_takes_the_share_of_the_parent():
    loss = search.Distilled(0.25)
    outputs = np.array([[0.5, -1.0, 2.0]], np.float32)
    batch = {"label": np.array([1]), "teacher": np.array([[0.2, 0.3, 0.5]], np.float32)}
    logs = outputs - np.log(np.exp(outputs).sum())
    expected = -0.75 * logs[0, 1] - 0.25 * (logs[0] * batch["teacher"][0]).sum()
    np.testing.assert_allclose(loss(outputs, batch), [expected], rtol=1e-5)


def one_class() -> Any:
    images = jp.data.digits()
    source = jp.data.Arrays("zeros", images.pixels[images.labels == 0], np.zeros(178, np.int64), ("0",))
    return Sources(source, None, ())


def two_classes() -> jp.data.Source:
    images = jp.data.digits()
    few = images.labels < 2
    return jp.data.Arrays("two", images.pixels[few], images.labels[few], ("0", "1"))


BAD = [
    ({"choosers": ("ck",)}, r"choosers: unknown value 'ck'. Did you mean 'cka'"),
    ({"choosers": "cka"}, r"choosers: expected several values, such as \('cka', .*, but got 'cka'"),
    ({"budgets": ("flops",)}, r"budgets: unknown value 'flops'"),
    ({"layer_criterion": "l3"}, r"layer_criterion: unknown value 'l3'"),
    ({"allocation": "paper"}, r"budgets: the allocation of the paper needs the budget 'filters'"),
    ({"target": 1.0}, r"target: expected a share in \[0, 1\), but got 1.0"),
    ({"seeds": (0, 0)}, r"seeds: expected one or more, each of them once"),
    ({"severities": (7,)}, r"severities: expected whole numbers from 1 to 5, but got 7"),
    ({"severities": (1.5,)}, r"severities: expected whole numbers from 1 to 5, but got 1.5"),
    ({"epsilons": (float("nan"),)}, r"epsilons: expected shares of the range of pixels, from 0 to 1, but got nan"),
    ({"epsilons": (8.0,)}, r"epsilons: expected shares .*, from 0 to 1, but got 8. 8/255 is 0.0314"),
    ({"epsilons": (-0.1,)}, r"epsilons: expected shares .*, but got -0.1"),
    ({"epsilons": (0.01, 0.0100000001)}, r"epsilons: expected one or more, each of them once.*2.55/255"),
    ({"brief_steps": 2.5}, r"brief_steps: expected a whole number of 1 or more, but got 2.5"),
    ({"long_steps": 0}, r"long_steps: expected a whole number of 1 or more, but got 0"),
    ({"checkpoints": 1}, r"checkpoints: expected 0 \(all\), or 2 or more"),
    ({"depth": 14}, r"depth: expected 20 or more, so that a stage has a block that can go, but got 14"),
    ({"depth": 21}, r"depth: expected 6 n"),
    ({"width": 99_999_999}, r"width, depth: .*99999999, 20"),
    (
        {"batch_size": 10**9},
        r"batch_size: expected at most the \d+ images of the training split, but got 1,000,000,000",
    ),
    ({"watts": 0.0}, r"watts: expected a finite number above 0"),
    ({"tune_rate": float("inf")}, r"tune_rate: expected a finite number above 0"),
    ({"compile_macs": float("nan")}, r"compile_macs: expected a number of 0 or more, but got nan"),
    ({"data": "digit"}, r"data: unknown value 'digit'. Did you mean 'digits'"),
    ({"data": one_class}, r"data: expected images of two classes or more, but got 1"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(*change) + str(i) for i, (change, _) in enumerate(BAD)])
def test_joint_finds_a_bad_value_before_anything_expensive(tmp_path, monkeypatch, change, message):
    studies.refused("joint", tmp_path, monkeypatch, message, **change)


def test_open_study_takes_a_function_of_images_and_names_it():
    inputs = joint.open_study(tiny(data=two_classes))
    assert inputs.settings.data == f"{__name__}:two_classes"
    named_alike = dataclasses.replace(two_classes(), name="digits")  # the name enters the splits
    others = [joint.open_study(tiny(data=data)) for data in (named_alike, "digits")]
    assert len({inputs.fingerprint, *(one.fingerprint for one in others)}) == 3
    assert len(others[0].images) == len(two_classes()) != len(others[1].images)
    assert joint.open_study(tiny(data=functools.partial(two_classes))).fingerprint == inputs.fingerprint
    assert {run.data for run in joint.plan(inputs.settings, inputs)} == {f"{__name__}:two_classes"}


def test_key_of_a_run_is_of_what_decides_its_numbers():
    (one,) = joint.plan(tiny(), None)
    assert [one] == joint.plan(tiny(watts=1.0, margin=0.5, out=joint.Settings().out / "elsewhere"), None)
    assert {field.name for field in dataclasses.fields(Decisive)}.isdisjoint({"watts", "margin", "out"})


def test_command_of_joint_explains_itself_and_its_errors(monkeypatch, capsys):
    def said(*words):
        return studies.said("joint", list(words), monkeypatch, capsys)

    code, text = said("--help")
    assert code == 0
    words = ("second-order", "kl-twice", "procrustes", "always-layer", "extra-training", "latency", "per_cost", "sgd")
    assert all(f"{word}," in text or f"{word}}}" in text for word in words)
    assert "folder:<path>" in text
    code, text = said("--epsilons", "8")
    assert (code, text.count("\n")) == (2, 1)
    assert text.startswith("error: epsilons: expected shares of the range of pixels, from 0 to 1, but got 8. 8/255 is ")
    code, text = said("--scores", "magnitude")
    assert code == 2
    assert text.startswith("error: --scores: the study joint has no such option. See ")
