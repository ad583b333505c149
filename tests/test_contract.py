"""What every score and every selection owe every network: a new one earns its place by a row in these tables."""

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests import cases

pytestmark = [
    pytest.mark.usefixtures("same_rank"),
    # A quarter of the weights is zero, and some leaves hold two: ties and emptied leaves are no surprise here.
    pytest.mark.filterwarnings("ignore::jaxprune.masks.TiesWarning"),
]

LOSS = jp.losses.cross_entropy

# scope -> score.  A scope keeps what compiles a program for every leaf to a few leaves.
SCORES = {
    "magnitude": lambda scope: jp.scores.magnitude(),
    "random": lambda scope: jp.scores.random(jax.random.key(0)),
    "snip": lambda scope: jp.scores.snip(LOSS),
    "grasp": lambda scope: jp.scores.grasp(LOSS),
    "synflow": lambda scope: jp.scores.synflow(),
    "fisher": lambda scope: jp.scores.fisher(LOSS),
    "diagonal": lambda scope: jp.scores.diagonal_hessian(LOSS, scope=scope),
    "quadratic": lambda scope: jp.scores.block_hessian(LOSS, form="quadratic", scope=scope),
    "signed": lambda scope: jp.scores.block_hessian(LOSS, form="quadratic", ranking="signed", scope=scope),
    "surgeon": lambda scope: jp.scores.block_hessian(LOSS, form="obs", matrix="ggn", damping=0.1, scope=scope),
    "priced": lambda scope: jp.scores.price_flat(jp.scores.fisher(LOSS)),
    "greedy": lambda scope: jp.scores.block_hessian(LOSS, form="greedy", matrix="ggn", damping=0.1, scope=scope),
}
TRACEABLE = ("magnitude", "random", "synflow")
SELECTS = {
    "global": jp.masks.unstructured(0.7),
    "uniform": jp.masks.unstructured(0.7, "uniform"),
    "erk": jp.masks.unstructured(0.7, "erk"),
    "1 of 2": jp.masks.n_of_m(1, 2),
}

every_case = pytest.mark.parametrize("name", cases.NAMES)
every_score = pytest.mark.parametrize("kind", SCORES)


def zip_leaves(*trees):
    return zip(*(jax.tree.leaves(tree) for tree in trees), strict=True)


def close(got, expected):
    for one, other in zip_leaves(got, expected):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * max(1e-3, np.abs(other).max(initial=0)))


def prunable_by(rule, case):
    """What a rule can prune of a network: pairs need an even number of inputs."""
    if rule != "1 of 2":
        return case.prunable
    return jax.tree.map(lambda leaf, flag: flag and leaf.shape[-2] % 2 == 0, case.network.params, case.prunable)


# One test for what shares its compiled programs.
@every_case
@every_score
def test_scores_and_masks_fit_exactly_and_ignore_batch_size_and_padding(kind, name):
    case = cases.build(name)
    params, score = case.network.params, SCORES[kind](case.scope)

    scores = score(case.network, [case.batch])
    assert jax.tree.structure(scores) == jax.tree.structure(params)
    for values, leaf in zip_leaves(scores, params):
        assert (values.shape, values.dtype) == (leaf.shape, leaf.dtype)
        assert jnp.isfinite(values).all()

    # As many examples as the whole has, so that nothing is compiled for them: two and three of them are padding.
    halves = [cases.pad(cases.take(case.batch, 0, 3), 2), cases.pad(cases.take(case.batch, 3, 5), 3)]
    close(score(case.network, halves), scores)

    for rule, select in SELECTS.items():
        prunable = prunable_by(rule, case)
        mask = select(scores, prunable)
        assert jax.tree.structure(mask) == jax.tree.structure(params)
        for keep, leaf, flag in zip_leaves(mask, params, prunable):
            assert (keep.shape, keep.dtype) == (leaf.shape, bool)
            assert flag or keep.all()
        total = sum(leaf.size for leaf, flag in zip_leaves(params, prunable) if flag)
        pruned = sum(int((~keep).sum()) for keep in jax.tree.leaves(mask))
        assert pruned == round((0.5 if rule == "1 of 2" else 0.7) * total)


# Of the other rules tests/test_laws.py says it, for any scores.
@every_case
def test_n_of_m_is_the_same_inside_jit(name):
    case, select = cases.build(name), SELECTS["1 of 2"]
    scores, prunable = jp.scores.magnitude()(case.network, []), prunable_by("1 of 2", case)
    inside = jax.jit(lambda scores: select(scores, prunable))(scores)
    jax.tree.map(np.testing.assert_array_equal, inside, select(scores, prunable))


@pytest.mark.parametrize("kind", ["snip", "grasp", "fisher", "quadratic"])
def test_scores_do_not_change_by_a_batch_that_is_all_padding(kind):
    case = cases.build("mlp")
    padding = {**case.batch, "weight": np.zeros(5)}
    score = SCORES[kind](case.scope)
    close(score(case.network, [case.batch, padding]), score(case.network, [case.batch]))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("kind", TRACEABLE)
def test_scores_are_the_same_inside_jit(kind, name):
    case = cases.build(name)
    score = SCORES[kind](case.scope)
    close(jax.jit(lambda network: score(network, [case.batch]))(case.network), score(case.network, [case.batch]))


TRACES = Counter()


@dataclass(frozen=True)
class Counting:
    """An apply that counts how often it is traced, and compares by value as every apply should."""

    name: str
    inner: Any

    def __call__(self, params, state, images):
        TRACES[self.name] += 1
        return self.inner(params, state, images)


@every_score
def test_scores_trace_equal_networks_once(kind):
    case = cases.build("mlp")
    score = SCORES[kind](case.scope)
    score(case.network.replace(apply=Counting(kind, case.network.apply)), [case.batch])
    traced = TRACES[kind]
    other = case.network.replace(apply=Counting(kind, case.network.apply), params=cases.vector(case.network.params))
    score(other, [case.batch, case.batch])
    assert TRACES[kind] == traced


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk"])
@pytest.mark.parametrize(
    ("kind", "name"), [("magnitude", "mlp"), ("snip", "cnn"), ("signed", "mlp"), ("synflow", "cnn")]
)
def test_rounds_are_nested_and_count_exactly(kind, name, allocation):
    case, schedule = cases.build(name), jp.schedules.exponential(0.9, 4)
    score = SCORES[kind](case.prunable)
    select = functools.partial(jp.masks.unstructured, allocation=allocation)
    total = sum(leaf.size for leaf, flag in zip_leaves(case.network.params, case.prunable) if flag)
    before = jp.masks.ones(case.network.params)
    rounds = list(jp.pruning.rounds(case.network, score, [case.batch], case.prunable, schedule, select))
    for sparsity, (mask, params) in zip(schedule, rounds, strict=True):
        jax.tree.map(np.testing.assert_array_equal, params, jp.masks.apply(mask, case.network.params))
        assert sum(int((~keep).sum()) for keep in jax.tree.leaves(mask)) == round(sparsity * total)
        assert all((~now | was).all() for now, was in zip_leaves(mask, before))
        before = mask
    last = jp.pruning.prune(case.network, score, [case.batch], case.prunable, schedule, select)
    jax.tree.map(np.testing.assert_array_equal, last, rounds[-1].mask)


def test_prune_scores_the_masked_network_anew():
    seen = []

    def score(network, batches):
        seen.append(int(sum(jnp.sum(leaf == 0) for leaf in jax.tree.leaves(network.params))))
        return jax.tree.map(jnp.abs, network.params)

    network = jp.Network(lambda p, s, x: x @ p["w"], {"w": jnp.arange(1.0, 9.0).reshape(4, 2)})
    jp.pruning.prune(network, score, [], {"w": True}, (0.25, 0.5, 0.75))
    assert seen == [0, 2, 4]


@pytest.mark.parametrize("schedule", [(), (0.5, 0.4)])
def test_rounds_name_a_bad_schedule_before_the_first(schedule):
    case = cases.build("mlp")
    with pytest.raises(ValueError, match="schedule: expected one or more sparsities that do not decrease"):
        jp.pruning.rounds(case.network, jp.scores.magnitude(), [], case.prunable, schedule)


def test_prune_names_scores_that_are_not_finite_in_their_round():
    network = jp.Network(lambda p, s, x: x @ p["w"], {"w": jnp.ones((2, 1))})
    with pytest.raises(ValueError, match=r"scores: expected finite numbers, but \['w'\] holds 1"):
        jp.pruning.prune(network, lambda net, data: {"w": jnp.array([[jnp.nan], [1.0]])}, [], {"w": True}, (0.5,))
