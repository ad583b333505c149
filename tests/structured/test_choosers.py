"""Choosers: which of two candidates is kept, and how chance and fixed choices go about it."""

import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.structured import choosers


def apply(params, state, images):
    del state
    features = checkpoint_name(images @ params["body"], "features")
    return checkpoint_name(features @ params["head"], "logits")


def network(seed=0, noise=0.0):
    rng, other = np.random.default_rng(seed), np.random.default_rng(9)
    body = rng.normal(size=(6, 4))
    head = np.random.default_rng(5).normal(size=(4, 3))
    return jp.Network(apply, {"body": body + noise * other.normal(size=body.shape), "head": head})


def batches():
    rng = np.random.default_rng(1)
    images = rng.normal(size=(24, 6))
    labels = np.argmax(np.asarray(network()(images)), -1)
    weight = np.ones(24)
    weight[20:] = 0
    images[20:] = 1e6  # what weighs nothing does not count
    parts = (slice(0, 12), slice(12, 24))
    return [{"image": images[part], "label": labels[part], "weight": weight[part]} for part in parts]


COMPARING = {
    **{kind: lambda kind=kind: choosers.cka(batches(), kind=kind) for kind in ("debiased", "biased", "rbf")},
    **{kind: lambda kind=kind: choosers.cka(batches(), kind=kind) for kind in ("minibatch", "streaming")},
    "procrustes": lambda: choosers.procrustes(batches()),
    "accuracy": lambda: choosers.accuracy(batches()),
}


@pytest.mark.parametrize("name", COMPARING)
def test_choosers_score_the_nearer_candidate_higher(name):
    chooser = COMPARING[name]()
    parent = network()
    candidates = {"far": network(seed=3), "near": network(noise=0.4), "same": network()}
    scores = chooser.compare(parent, candidates)
    assert scores["far"] < scores["near"] < scores["same"]
    best = {"procrustes": 0}.get(name, 1)
    assert scores["same"] == pytest.approx(best, abs=1e-6)
    assert chooser.before is None
    assert chooser.kinds == ("layer", "neurons")


def test_choosers_have_their_own_names():
    names = [COMPARING[name]().name for name in COMPARING]
    names += [choosers.random(0).name, choosers.always("layer").name, choosers.always("neurons").name]
    assert len(set(names)) == len(names)


def test_choosers_score_by_the_similarity_of_all_examples():
    parent, other = network(), network(noise=0.4)
    images = np.concatenate([batch["image"] for batch in batches()])[:20]
    pair = images @ parent.params["body"], images @ other.params["body"]
    one = {"layer": other}
    assert choosers.cka(batches()).compare(parent, one)["layer"] == pytest.approx(jp.similarity.linear_cka(*pair))
    assert choosers.procrustes(batches()).compare(parent, one)["layer"] == pytest.approx(
        -jp.similarity.procrustes(*pair)
    )
    biased = choosers.cka(batches(), kind="biased").compare(parent, one)["layer"]
    left, right = (part - part.mean(0) for part in pair)
    norms = np.linalg.norm(left.T @ left) * np.linalg.norm(right.T @ right)
    assert biased == pytest.approx(np.linalg.norm(left.T @ right) ** 2 / norms, rel=1e-10)


def test_cka_compares_another_site():
    scores = choosers.cka(batches(), site="logits").compare(network(), {"layer": network(noise=0.4)})
    images = np.concatenate([batch["image"] for batch in batches()])[:20]
    pair = [np.asarray(one(images)) for one in (network(), network(noise=0.4))]
    assert scores["layer"] == pytest.approx(jp.similarity.linear_cka(*pair))


def test_representation_takes_a_measure_of_ones_own():
    def overlap(pairs):
        return -sum(float(np.abs(left - right).sum()) for left, right in pairs)

    chooser = choosers.representation(batches(), overlap, name="overlap")
    scores = chooser.compare(network(), {"layer": network(noise=0.1), "neurons": network()})
    assert chooser.name == "overlap"
    assert scores["layer"] < scores["neurons"] == 0


def test_accuracy_is_the_weighted_share_of_hits():
    batch = batches()[0] | {"weight": np.array([3.0] + [1.0] * 11)}
    wrong = batch | {"label": np.concatenate([(batch["label"][:1] + 1) % 3, batch["label"][1:]])}
    assert choosers.accuracy([wrong]).compare(network(), {"layer": network()})["layer"] == pytest.approx(11 / 14)


def test_random_is_a_function_of_seed_and_step_and_fair():
    kinds = ("layer", "neurons")
    tossed = [[choosers.random(seed).before(step, kinds) for step in range(100)] for seed in (0, 0, 1)]
    assert tossed[0] == tossed[1] != tossed[2]
    for one in tossed:
        # Four standard deviations of 100 fair coins.
        assert abs(one.count("layer") - 50) < 20
        assert set(one) == set(kinds)
    assert {choosers.random(0).before(step, ("neurons",)) for step in range(10)} == {"neurons"}
    assert choosers.random(0).compare is None


@pytest.mark.parametrize("kind", ["layer", "neurons"])
def test_always_takes_one_kind(kind):
    chooser = choosers.always(kind)
    assert chooser.kinds == (kind,)
    assert chooser.compare is None
    assert {chooser.before(step, (kind,)) for step in range(5)} == {kind}


def test_choosers_refuse_unknown_names():
    with pytest.raises(ValueError, match=r"kind: unknown value 'layers'\. Did you mean 'layer'"):
        choosers.always("layers")
    with pytest.raises(ValueError, match=r"kind: unknown value 'unbiased'.*Known: biased, debiased, minibatch, rbf"):
        choosers.cka(batches(), kind="unbiased")
    with pytest.raises(ValueError, match="pen"):
        choosers.cka(batches(), site="pen").compare(network(), {"layer": network()})


def test_accuracy_compiles_networks_of_one_program_once():
    traced = []

    def counting(params, state, images):
        traced.append(True)
        return apply(params, state, images)

    one, two = (jp.Network(counting, network(noise=noise).params) for noise in (0, 0.3))
    choosers.accuracy(batches()).compare(one, {"layer": one, "neurons": two})
    assert len(traced) == 1
