"""The study of a network of the user's own: found in its program, searched, resumed, and refused in words."""

import functools
import json

import jax
import pytest
from rich.console import Console

import jaxprune as jp
from experiments import joint
from experiments.shared.discovered import discovered
from experiments.shared.study import run
from tests.experiments import studies

OWN = "tests.experiments.joint.own"
TINY = {
    "network": f"{OWN}:small",
    "pretrain_steps": 3,
    "brief_steps": 1,
    "long_steps": 2,
    "batch_size": 16,
    "target": 0.4,
    "share": 0.2,
    "severities": (1,),
    "epsilons": (0.01,),
    "neuron_criterion": "l2",
    "allocation": "normalised",
    "seeds": (0,),
}


@pytest.fixture(autouse=True)
def float32(float64):
    """The study runs as its users run it."""
    jax.config.update("jax_enable_x64", False)


def test_discovered_is_what_the_study_searches(tmp_path):
    """From the settings to the page, and every step loads as the network that it was."""
    settings = joint.Settings(**TINY, out=tmp_path)
    run(joint.STUDY, settings, Console(quiet=True))
    opened = joint.STUDY.open(settings).settings
    assert opened.choosers == ("always-neurons", "extra-training")
    records = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")]
    assert sorted(record["config"]["chooser"] for record in records) == ["always-neurons", "extra-training"]
    searched = next(one for one in records if one["config"]["chooser"] == "always-neurons")
    steps = searched["metrics"]["steps"]
    assert steps[-1]["macs"] <= 0.6 * steps[0]["macs"]
    (page,) = tmp_path.glob("*.html")
    assert f"The network that {OWN}:small returns, the same for every seed" in page.read_text()
    _, network = discovered(TINY["network"], (8, 8, 1), 10)
    build = functools.partial(jp.structured.Traced.described, network=network)
    folders = [path.parent for path in tmp_path.glob("trajectories/*/step_*/specification.json")]
    assert len(folders) > len(steps)
    shapes = {"classes": 10, "blocks": {}}
    for folder in folders:
        specification, small = jp.structured.load(folder, build)
        shapes["blocks"] = {group.name: [group.size] for group in specification.groups()}
        assert set(shapes["blocks"]) == {"Conv_0", "Conv_1"}
        assert jp.cost.macs(small, (8, 8, 1)) == json.loads((folder / "step.json").read_text())["macs"]
    assert {"classes", "blocks"} == set(steps[-1]["shape"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": f"{OWN}:nothing"}, "has no function 'nothing'"),
        ({"network": f"{OWN}:module"}, "network: expected .*:module to return a jp.Network, but got a Small"),
        ({"network": f"{OWN}:few_classes"}, r"network: expected outputs \[b, 10\], .* gives \(2, 3\) for 2 images"),
        ({"network": f"{OWN}:of_other_images"}, r"network: expected a network of images \(8, 8, 1\).*raises TypeError"),
        ({"network": f"{OWN}:linear"}, "network: expected units that can be removed, .* none was found and proven"),
        ({"choosers": ("cka",)}, "choosers: expected always-neurons or extra-training, .* no layer can go"),
        ({"target": 0.0}, "share, target, budgets: expected shares above 0"),
        ({"budgets": ("filters",)}, "share, target, budgets: expected shares above 0, and another budget"),
        ({"neuron_criterion": "cka"}, "neuron_criterion: expected a criterion of weights"),
    ],
)
def test_discovered_refuses_in_words(tmp_path, monkeypatch, changes, message):
    studies.refused("joint", tmp_path, monkeypatch, message, **{**TINY, **changes})


def test_discovered_takes_a_function_itself():
    def made():
        return jp.Network(lambda p, s, x: jax.nn.relu(x.reshape(len(x), -1) @ p["in"]) @ p["out"], weights)

    weights = {"in": jax.numpy.ones((4, 3)), "out": jax.numpy.ones((3, 2))}
    specification, network = discovered(made, (2, 2, 1), 2)
    assert [(group.name, group.size) for group in specification.groups()] == [("in", 3)]
    assert network.params is weights
