"""Methods of three axes: their words, and what they make of a network."""

import dataclasses
import types
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp
from experiments import transfer
from experiments.shared import methods, pruned
from experiments.shared.methods import parse, word_of
from jaxprune.scores.surgeon import SurgeonUpdate
from tests.experiments import small


@pytest.mark.parametrize(
    ("word", "axes"),
    [
        ("magnitude", ("none", "magnitude", "none")),
        ("diagonal", ("label", "diagonal", "none")),
        ("label/snip", ("label", "snip", "none")),
        ("logits/greedy+surgeon", ("logits", "greedy", "surgeon")),
        ("features/magnitude+rounds", ("features", "magnitude", "rounds")),
        ("label/magnitude+surgeon", ("label", "magnitude", "surgeon")),
    ],
)
def test_parse_reads_three_axes_and_word_of_writes_them(word, axes):
    found = parse(word)
    assert (found.objective, found.score, found.update) == axes
    assert parse(found.word) == found
    assert word_of(vars(found)) == found.word


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("labels/diagonal", "methods: objective: unknown value 'labels'. Did you mean 'label'"),
        ("logits/diagnal", "methods: unknown value 'diagnal'. Did you mean 'diagonal'"),
        ("logits/greedy+surgery", "methods: update: unknown value 'surgery'. Did you mean 'surgeon'"),
        ("magnitude+rounds", "expected the objective that rounds reads, .* Write 'logits/magnitude[+]rounds'"),
        ("logits/random", "methods: random reads no objective, but 'logits/random' names one"),
        ("logits/fisher", "methods: fisher ranks by a gradient, but that of .* is zero .* 'logits/diagonal'"),
    ],
)
def test_parse_names_what_it_does_not_know(word, message):
    with pytest.raises(ValueError, match=message):
        parse(word)


def test_parsed_refuses_one_method_in_two_words():
    with pytest.raises(ValueError, match="methods: expected one or more, each of them once"):
        methods.parsed(transfer.Settings(methods=("diagonal", "label/diagonal")))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("sparsity", [0.05, 0.3, 0.5, 0.8, 0.95])
def test_schedule_shares_its_steps_among_sparsities_and_ends_where_asked(sparsity, share):
    steps = pruned.schedule(sparsity, share)
    assert steps[-1] == sparsity
    np.testing.assert_allclose(steps[:-1], [1 - (1 - share) ** (number + 1) for number in range(len(steps) - 1)])
    kept = np.array([1.0, *(1 - step for step in steps)])
    shares = 1 - kept[1:] / kept[:-1]
    assert (shares[:-1] <= share + 1e-12).all()
    assert len(steps) == 1 or share / 2 - 1e-12 <= shares[-1] <= 1.5 * share


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    settings: dict[str, Any] = {"network": small.network, "data": small.images, "batch_size": 16, "penalties": (1.0,)}
    out = tmp_path_factory.mktemp("methods")
    with jax.enable_x64(False):
        inputs = transfer.open_study(transfer.Settings(**settings, seeds=(0,), shifts=(), out=out))
        return transfer.prepare_seed(inputs.settings, inputs, 0)


@pytest.mark.parametrize("objective", methods.OBJECTIVES)
@pytest.mark.parametrize("update", methods.UPDATES)
def test_prune_takes_every_objective_and_update(world, objective, update):
    method = parse(f"{objective}/greedy{'' if update == 'none' else '+' + update}")
    network, mask, gradients = pruned.prune(world, method, 0.5)
    assert jp.masks.sparsity(mask, world.prunable) == pytest.approx(0.5, abs=0.02)
    moved = False
    for name, leaf in jp.tree.by_name(network.params).items():
        kept, before = (np.asarray(jp.tree.by_name(tree)[name]) for tree in (mask, world.dense.params))
        assert not np.asarray(leaf)[~kept].any()
        moved |= bool((np.asarray(leaf)[kept] != before[kept]).any())
        if name.startswith("head/"):
            np.testing.assert_array_equal(leaf, before)
    assert moved == (update != "none")
    assert (gradients > 0) == (update in ("rounds", "adam"))


def test_prune_reaches_a_sparsity_by_the_same_rounds_whatever_else_a_study_has(world):
    method = parse("logits/greedy+rounds")
    fresh = dataclasses.replace(world, rounds={})
    alone, _, spent = pruned.prune(fresh, method, 0.5)
    shared = dataclasses.replace(world, rounds={})
    pruned.prune(shared, method, 0.7)
    after, _, again = pruned.prune(shared, method, 0.5)
    jax.tree.map(np.testing.assert_array_equal, alone.params, after.params)
    assert spent == again
    # The control has as many gradients, to one of its steps in each round.
    _, _, twin = pruned.prune(shared, parse("logits/greedy+adam"), 0.5)
    assert spent - len(pruned.schedule(0.5, 0.25)) <= twin <= spent


def test_prune_by_labels_and_by_logits_sees_the_same_images(world):
    label, logits = pruned.goal(world, "label"), pruned.goal(world, "logits")
    for one, other in zip(label.images, logits.images, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        assert "label" not in other
    everything = pruned.goal(world, "logits-of-all")
    assert sum(len(one["image"]) for one in everything.images) > sum(len(one["image"]) for one in logits.images)


@pytest.mark.parametrize("objective", ["logits", "features", "logits-of-all"])
def test_goal_sketches_what_is_scored_and_moves_by_every_output(world, objective):
    few = dataclasses.replace(world, settings=dataclasses.replace(world.settings, sketch=3))
    aim, whole = pruned.goal(few, objective), pruned.goal(world, objective)
    images = aim.images[0]["image"]
    assert aim.network(images).shape[1] == 3
    np.testing.assert_array_equal(aim.quick(images), whole.quick(images))
    again = pruned.goal(few, objective).network
    np.testing.assert_array_equal(aim.network(images), again(images))
    mask = pruned.prune(dataclasses.replace(few, scored={}), parse(f"{objective}/greedy+surgeon"), 0.5).mask
    assert jp.masks.sparsity(mask, world.prunable) == pytest.approx(0.5, abs=0.02)
    assert pruned.goal(few, "label").network(images).shape == pruned.goal(world, "label").network(images).shape


def test_prune_readjusts_for_all_sparsities_at_once_as_for_each_alone(world, monkeypatch):
    method, seen, each = parse("logits/greedy+surgeon"), [], SurgeonUpdate.each

    def spied(self, network, batches, masks):
        seen.append(len(masks))
        return each(self, network, batches, masks)

    monkeypatch.setattr(SurgeonUpdate, "each", spied)
    together, sparsities = dataclasses.replace(world, scored={}), world.settings.sparsities[:2]
    found = [pruned.prune(together, method, sparsity).network.params for sparsity in sparsities]
    assert seen == [len(world.settings.sparsities) + len(world.settings.rungs)]
    monkeypatch.setattr(pruned, "memory", types.SimpleNamespace(available=lambda _: 1))  # no other is held
    for sparsity, params in zip(sparsities, found, strict=True):
        jax.tree.map(np.testing.assert_array_equal, pruned.prune(together, method, sparsity).network.params, params)
        alone = dataclasses.replace(world, scored={name: (values, {}) for name, (values, _) in together.scored.items()})
        jax.tree.map(np.testing.assert_array_equal, pruned.prune(alone, method, sparsity).network.params, params)
    assert seen[1:] == [1, 1]


def test_prune_solves_blocks_of_as_many_inputs_as_the_settings_say(world):
    method = parse("logits/greedy+surgeon")
    small_blocks = dataclasses.replace(world, settings=dataclasses.replace(world.settings, blocks=2), scored={})
    found = pruned.prune(small_blocks, method, 0.5)
    aim = pruned.goal(world, "logits")
    scores = jp.scores.block_hessian(aim.loss, form="greedy", blocks=2, damping=1e-2, scope=world.prunable)
    mask = jp.masks.unstructured(0.5)(scores(aim.network, aim.images), world.prunable)
    jax.tree.map(np.testing.assert_array_equal, found.mask, mask)
    params = jp.scores.surgeon_update(aim.loss, blocks=2, damping=1e-2)(aim.network, aim.images, mask)
    jax.tree.map(np.testing.assert_array_equal, found.network.params, params)
