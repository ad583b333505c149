"""The study of gates: as much as any other owes, and what is its own."""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp
from experiments import gates, load
from experiments.gates import arms
from experiments.gates.results import PART, divergences, place
from experiments.shared import check_page
from experiments.shared.methods import word_of
from experiments.shared.results import Results, hits
from jaxprune.structured import criteria
from tests.experiments import studies

SMOKE: dict[str, Any] = {
    "pretrain_steps": 5,
    "finetune_steps": 2,
    "finetune_rate": 2e-3,
    "width": 16,
    "depth": 1,
    "penalties": (1.0,),
    "shares": (0.7,),
    "distances": ("kl",),
    "methods": ("logits/joint+readjusted", "magnitude+readjusted", "random+readjusted"),
    "seeds": (0,),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return studies.make("gates", SMOKE, tmp_path_factory.mktemp("gates"), shards="1/2")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    with jax.enable_x64(False):
        settings = gates.Settings(**SMOKE, out=tmp_path_factory.mktemp("scene"))
        inputs = gates.open_study(settings)
        return gates.prepare_seed(inputs.settings, inputs, 0)


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


def run_of(scene: arms.Scene, word: str, share: float = 0.7, distance: str = "kl", rounds: int = 2) -> gates.Run:
    asked = dataclasses.replace(scene.world.settings, rounds=rounds)
    fields = {one.name: getattr(asked, one.name) for one in dataclasses.fields(gates.Run) if hasattr(asked, one.name)}
    return gates.Run(**fields, **vars(arms.METHODS[word]), seed=0, distance=distance, share=share)


def test_gates_keeps_what_every_study_promises(made, monkeypatch):
    studies.check_promises(made, monkeypatch)


def test_compose_writes_a_page_that_says_what_the_network_is(made):
    text = (made.whole / "index.html").read_text()
    counts = check_page.check(text)
    assert counts["words of running text, captions included"][0] <= 700
    assert "ViT of depth 1 and width 16" in text
    dense = next(one for one in made.records() if one["config"]["score"] == "dense")
    accuracy = f"{100 * dense['metrics']['pretrained']['accuracy']:.1f}"
    assert re.search(rf"Its own classifier gets {accuracy}\W% of all classes right", text)
    assert dense["config"]["architecture"] == "vit"


def test_measure_drops_the_share_that_was_asked_for(made):
    records = {word_of(one["config"]): one["metrics"] for one in made.records()}
    assert records["dense"]["removed"] == 0
    np.testing.assert_allclose(np.concatenate(list(records["dense"]["divergence"].values())), 0, atol=1e-6)
    for word, metrics in records.items():
        if word != "dense":
            assert metrics["removed"] == pytest.approx(46 / 66)  # two heads and 64 hidden units
            assert set(metrics["held_out"]) == ({""} if "joint" in word else set(arms.ALLOCATIONS))
            assert metrics["allocation"] == min(metrics["held_out"], key=metrics["held_out"].get)
            assert all(min(one) > -1e-6 for one in metrics["divergence"].values())
        assert {name: len(one) for name, one in metrics["divergence"].items()} == {
            name: one["n"] for name, one in metrics["pruned"].items()
        }


def test_claims_compare_the_joint_choice_with_controls_of_the_same_update(made):
    verdicts = load(made.whole).verdicts
    assert verdicts.groupby("claim").size().to_dict() == {
        f"{name}, {group}": count
        for group in ("source", "transfer")
        for name, count in {"joint is nearer": 2, "a third": 1, "joint is more accurate": 2}.items()
    }
    results = Results(made.records(), gates.open_study(made.asked))
    joint, magnitude, random = (results.of(**place(word, "kl", 0.7))[0] for word in SMOKE["methods"])
    for group in ("source", "transfer"):
        rows = verdicts[verdicts.claim == f"joint is nearer, {group}"].set_index("method")
        found = divergences(random, group).mean() - divergences(joint, group).mean()
        np.testing.assert_allclose(rows.loc["random+readjusted", "mean"], found)
        best = min((magnitude, random), key=lambda one: min(one["held_out"].values()))
        row = verdicts[verdicts.claim == f"a third, {group}"].iloc[0]
        np.testing.assert_allclose(row["mean"], (divergences(best, group) - PART * divergences(joint, group)).mean())
        rows = verdicts[verdicts.claim == f"joint is more accurate, {group}"].set_index("method")
        found = hits(joint, group).mean() - hits(magnitude, group).mean()
        np.testing.assert_allclose(rows.loc["magnitude+readjusted", "mean"], found, atol=1e-12)


def test_divergences_are_those_of_the_outputs_on_every_image(scene):
    data = {"image": np.asarray(scene.world.selection["image"])[:7], "label": scene.world.selection["label"][:7]}
    other = scene.dense.replace(params=jax.tree.map(lambda leaf: 1.1 * leaf, scene.dense.params))
    p, q = (np.asarray(jax.nn.log_softmax(one(data["image"])), np.float64) for one in (scene.dense, other))
    np.testing.assert_allclose(gates.divergences(scene, other, data), (np.exp(p) * (p - q)).sum(-1), atol=1e-6)


def test_kept_is_the_mask_of_what_folding_leaves(scene):
    alive = jp.structured.ones(scene.groups)
    alive["block0/heads"][1] = False
    alive["block0/units"][3:] = False
    mask = jp.tree.by_name(gates.kept(scene, alive))
    gone = {name: np.asarray(one) for name, one in mask.items() if not np.asarray(one).all()}
    assert len(gone) == 2
    np.testing.assert_array_equal(gone["block0/attention/output/kernel"].all(1), np.arange(16) < 8)
    (hidden,) = [one for name, one in gone.items() if "attention" not in name]
    np.testing.assert_array_equal(hidden.all(1), np.arange(64) < 3)
    np.testing.assert_array_equal(hidden.any(1), np.arange(64) < 3)


def test_rated_by_what_each_control_is(scene):
    groups, alive = scene.groups, jp.structured.ones(scene.groups)
    (batch,) = scene.world.scoring
    headed = scene.world.headed(scene.dense)
    scaled = jp.structured.factored(headed, groups, alive)

    def each(factors: Any, image: Any, label: Any) -> Any:
        one = {"image": image[None], "label": label[None]}
        return scene.world.loss(scaled.replace(params=factors)(one["image"]), one)[0]

    slopes = jax.vmap(jax.grad(each), (None, 0, 0))(scaled.params, batch["image"], batch["label"])
    fisher, taylor = scene.rated("label/fisher", ""), scene.rated("label/taylor", "")
    for name, values in slopes.items():
        np.testing.assert_allclose(fisher[name], np.mean(values**2, 0), rtol=2e-3, atol=1e-7)
        np.testing.assert_allclose(taylor[name], np.abs(np.mean(values, 0)), rtol=2e-3, atol=1e-6)
    whole = scene.hessian("kl")
    diagonal = scene.rated("logits/diagonal", "kl")
    np.testing.assert_array_equal(np.concatenate([diagonal[group.name] for group in groups]), np.diagonal(whole))
    magnitude = criteria.l2()(scene.dense, groups, alive, [batch])
    assert all(np.array_equal(scene.rated("magnitude", "")[name], one) for name, one in magnitude.items())


def test_factors_are_readjusted_by_the_hessian_that_chose_jointly(scene):
    bare, moved = (scene.factors(run_of(scene, word)) for word in ("label/taylor", "label/taylor+readjusted"))
    whole = scene.hessian("kl")
    for allocation in arms.ALLOCATIONS:
        gates_ = {name: one == 1 for name, one in bare[allocation].items()}
        wanted = jp.structured.readjusted(scene.groups, whole, gates_)
        for name, one in moved[allocation].items():
            np.testing.assert_array_equal(one, wanted[name])
            assert set(np.unique(bare[allocation][name])) <= {0.0, 1.0}
    joint = scene.factors(run_of(scene, "logits/joint+readjusted"))[""]
    wanted = jp.structured.prune_jointly(
        scene.dense, scene.groups, scene.images, 0.7, loss=jp.losses.distillation("kl"), per="units"
    )
    for name, one in joint.items():
        np.testing.assert_allclose(one, wanted.factors[name], rtol=1e-4, atol=1e-6)


def test_factors_in_one_round_are_those_at_once(scene):
    once = scene.factors(run_of(scene, "logits/diagonal+readjusted"))
    rounds = scene.factors(run_of(scene, "logits/diagonal+rounds", rounds=1))
    several = scene.factors(run_of(scene, "logits/diagonal+rounds", rounds=3))
    for allocation in arms.ALLOCATIONS:
        for name, one in once[allocation].items():
            np.testing.assert_allclose(rounds[allocation][name], one, rtol=5e-3, atol=1e-4)
        assert sum(np.sum(one != 0) for one in several[allocation].values()) == 20


def test_plan_does_once_what_depends_on_no_distance(scene):
    asked = dataclasses.replace(scene.world.settings, distances=("squared", "kl"), methods=tuple(arms.METHODS))
    runs = gates.plan(asked, None)
    assert len(set(runs)) == len(runs) == 1 + 6 + 2 * (len(arms.METHODS) - 6)
    assert {one.word for one in runs if not one.distance} == {
        *("dense", "label/diagonal", "label/fisher", "label/taylor", "magnitude", "activation", "random")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": ""}, "architecture: unknown value ''. Known: vit"),
        ({"methods": ("logits/joint", "magnitud")}, "methods: unknown value 'magnitud'. Did you mean 'magnitude'"),
        ({"methods": ()}, r"methods: expected one or more, each of them once, but got \(\)"),
        ({"distances": ("squard",)}, "distances: unknown value 'squard'. Did you mean 'squared'"),
        ({"shares": (1.0,)}, r"shares: expected shares of all units, in \(0, 1\), but got 1.0"),
        ({"shares": (0.5, 0.5)}, "shares: expected one or more, each of them once"),
        ({"rounds": 0}, "rounds: expected"),
        ({"damping": 0.0}, "damping: expected"),
        ({"weights": __file__}, "architecture: unknown value 'vit'"),
        ({"network": "tests.experiments.small:network"}, "network: expected units that can be gated before the feat"),
        ({"network": "tests.experiments.small:deeper", "architecture": "x"}, "architecture: unknown value 'x'"),
    ],
)
def test_gates_finds_a_bad_value_before_anything_expensive(tmp_path, monkeypatch, change, message):
    studies.refused("gates", tmp_path, monkeypatch, message, **{**SMOKE, **change})


def test_factors_of_a_share_that_the_floors_do_not_permit(scene):
    with pytest.raises(ValueError, match=r"shares: expected units that can go, but with .* Take a smaller share"):
        scene.factors(run_of(scene, "magnitude", share=0.99))
