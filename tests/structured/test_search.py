"""The search: what it keeps, what it records, where it ends, and that it can be repeated and resumed."""

import itertools
from functools import cache
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.cost import compilation
from jaxprune.models.resnet import ResNet, full_blocks
from jaxprune.structured import Chooser, Compaction, Search, budgets, choosers, criteria, effects, ones, remove, reopen
from jaxprune.structured import steps as steps_of_a_search
from tests.structured import networks


@pytest.fixture(autouse=True)
def unchecked_removal(monkeypatch):
    """That removing is gating is what test_equality and the study test; here it would take a third of the time."""
    monkeypatch.setattr(steps_of_a_search, "check_removal", lambda *_: None)


MODULE = ResNet(full_blocks((4, 3), 4), 3, 4)
IMAGE = (4, 4, 2)


@cache
def dense():
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *IMAGE), np.float32))
    variables = networks.random_weights(shapes, seed=0)
    return MODULE.network(variables.pop("params"), variables)


def keep(network, parent, step, stage):
    """Tunes nothing."""
    del parent, step, stage
    return network


def drift(network, parent, step, stage):
    """Tunes in a way that depends on everything that it may depend on."""
    factor = 1 + 0.01 * step + (0.001 if stage == "long" else 0)
    half = jax.tree.map(lambda new, old: factor * (0.9 * new + 0.1 * old), network.params, parent.params)
    return network.replace(params=half)


def images():
    return np.random.default_rng(1).normal(size=(8, *IMAGE))


def data():
    return {"image": images(), "label": np.arange(8) % 3}


def search(**changes):
    options = {
        "criteria": {"layer": criteria.l2(), "neurons": criteria.l2()},
        "chooser": choosers.random(5),  # neurons, layer, layer, neurons, ...
        "tune": keep,
        "scoring": [data()],
        "image_shape": IMAGE,
        "target": 0.5,
    }
    return Search(**options | changes)


def steps(**changes):
    return list(search(**changes)(MODULE, dense()))


def whole():
    return jp.cost.macs(dense(), IMAGE)


def one_layer():
    """A layer's worth of operations: all blocks that can go take the same."""
    return 2 * 16 * 9 * 4 * 4


def test_search_records_what_the_smaller_networks_cost():
    found = steps()
    assert [step.number for step in found] == list(range(len(found)))
    assert found[0].kind == "dense"
    assert {step.kind for step in found[1:]} == {"layer", "neurons"}
    assert found[0].macs == whole()
    for before, step in itertools.pairwise(found):
        assert step.macs == jp.cost.macs(step.network, IMAGE)
        assert step.parameters == jp.cost.parameters(step.network)
        assert step.filters == sum(leaf.shape[-1] for leaf in jax.tree.leaves(step.params) if leaf.ndim == 4)
        assert set(step.removed) == {step.kind}
        assert step.removed[step.kind] == {
            "macs": before.macs - step.macs,
            "parameters": before.parameters - step.parameters,
            "filters": before.filters - step.filters,
        }
        assert set(step.seconds) == {"compile", "criterion", "brief", "choice", "long"}
        assert step.scores == {}
        assert remove(MODULE, dense().params, dense().state, step.gates)[0] == step.specification


def test_search_removes_a_layers_worth_a_step_and_ends_at_the_target():
    # A filter takes 9 x 4 weights to make it and as many to read it, on 16 pixels or on 4; two kernels of the second
    # stage are twice as wide.
    unit = 16 * 2 * 9 * 4
    for chooser in (choosers.always("layer"), choosers.always("neurons"), choosers.random(0)):
        found = steps(chooser=chooser, target=0.35)
        goal = 0.65 * whole()
        for step in found[1:-1]:
            gone = step.removed[step.kind]["macs"]
            assert gone == one_layer() if step.kind == "layer" else one_layer() <= gone < one_layer() + unit
        assert found[-2].macs > goal >= found[-1].macs
        assert goal - found[-1].macs < (one_layer() if found[-1].kind == "layer" else unit)


def test_search_without_a_target_ends_when_two_blocks_a_stage_are_left():
    found = steps(chooser=choosers.always("layer"), target=None)
    assert [step.kind for step in found] == ["dense", *["layer"] * 3]
    assert found[-1].specification.depths == (2, 2)
    found = steps(target=None)
    assert found[-1].specification.depths == (2, 2)
    assert found[-2].specification.depths != (2, 2)
    assert "neurons" in {step.kind for step in found}


def test_search_ends_when_nothing_can_be_removed_any_more():
    found = steps(chooser=choosers.always("neurons"), target=0.99)
    widths = [width for shape in found[-1].specification.blocks for width in shape.inner]
    assert found[-1].macs > 0.01 * whole()
    # What is left above the floors is less than a step.
    assert sum((width - 1) * 16 * 2 * 9 * 4 for width in widths) < 2 * one_layer()
    assert all(step.kind == "neurons" for step in found[1:])
    assert steps(steps=2, target=None)[-1].number == 2


def test_search_tells_before_any_tuning_that_nothing_meets_the_budget():
    def never(network, parent, step, stage):
        raise AssertionError

    run = search(tune=never, budget=budgets.macs(0.95), target=None)(MODULE, dense())
    assert next(run).number == 0
    with pytest.raises(ValueError, match=r"budget: expected a step that can be made, but no layer and no neurons cand"):
        next(run)


def identical(one, two):
    assert (one.number, one.kind, one.macs, one.parameters, one.filters, one.removed, one.scores) == (
        two.number, two.kind, two.macs, two.parameters, two.filters, two.removed, two.scores
    )  # fmt: skip
    assert (one.specification, one.base) == (two.specification, two.base)
    jax.tree.map(np.testing.assert_array_equal, (one.params, one.state, one.gates), (two.params, two.state, two.gates))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compaction": Compaction(0, 1)},
        {"budget": budgets.filters(), "allocation": "paper", "seed": 3},
    ],
    ids=["gates", "compaction", "paper"],
)
def test_search_that_was_interrupted_goes_on_bit_for_bit(options):
    options = {"tune": drift, "target": 0.5, "budget": budgets.macs(0.08)} | options
    everything = steps(**options)
    assert len(everything) > 4
    assert {step.kind for step in everything} == {"dense", "layer", "neurons"}
    for stop in (1, 3):
        rest = list(search(**options)(MODULE, dense(), everything[stop]))
        assert len(rest) == len(everything) - stop - 1
        for one, two in zip(everything[stop + 1 :], rest, strict=True):
            identical(one, two)


def test_compaction_changes_nothing_but_the_arrays_that_are_computed_with():
    gates, compact, never = (steps(compaction=one) for one in (None, Compaction(0, 1), Compaction(1e30, 1)))
    for one, two, three in zip(gates, compact, never, strict=True):
        assert one.base == three.base == MODULE
        assert (one.kind, one.macs, one.specification) == (two.kind, two.macs, two.specification)
        jax.tree.map(np.testing.assert_array_equal, (one.params, one.state), (two.params, two.state))
        identical(one, three)
    assert compact[0].base == MODULE
    assert all(step.base == step.specification for step in compact[1:-1])
    assert all(np.all(values) for step in compact[1:-1] for values in step.gates.values())


@pytest.mark.parametrize("compaction", [None, Compaction(0, 1)])
def test_reopen_computes_what_the_network_of_the_step_does(compaction):
    step = steps(compaction=compaction, steps=2)[-1]
    again = reopen(MODULE, dense(), step)
    got, want = (np.asarray(networks.evaluate(one, images())) for one in (again, step.network))
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)
    whole = dense() if compaction is None else step.network
    assert jp.cost.parameters(again) == jp.cost.parameters(whole)
    assert (jp.cost.parameters(step.network) < jp.cost.parameters(again)) == (compaction is None)


def test_search_makes_changed_widths_multiples():
    found = steps(chooser=choosers.always("neurons"), multiple=2, target=0.4)
    widths = [width for shape in found[-1].specification.blocks for width in shape.inner]
    assert set(widths) <= {2, 4, 6, 8}
    assert len(set(widths)) > 1


def test_search_adjusts_every_candidate_before_it_is_tuned():
    seen = []

    def adjust(network):
        bias = jp.tree.leaf(network.params, "head/bias") + 1
        return network.replace(params=jp.tree.replace(network.params, "head/bias", bias))

    def watch(network, parent, step, stage):
        seen.append((step, stage, float((network.params["head"]["bias"] - parent.params["head"]["bias"])[0])))
        return network

    chooser = Chooser("layer", compare=lambda parent, candidates: dict.fromkeys(candidates, 0.0))
    found = steps(adjust=adjust, tune=watch, steps=2, chooser=chooser)
    stages = ["brief", "brief", "long"]
    assert [(step, stage) for step, stage, _ in seen] == [(number, stage) for number in (1, 2) for stage in stages]
    assert [shift for *_, shift in seen] == pytest.approx([1.0] * 6)
    np.testing.assert_allclose(found[-1].params["head"]["bias"], dense().params["head"]["bias"] + 2)


def counted(calls, name):
    def rate(network, groups, gates, batches):
        calls.append((name, int(sum(values.sum() for values in gates.values()))))
        return criteria.l2()(network, groups, gates, batches)

    return rate


def test_search_asks_a_criterion_of_both_kinds_once_a_step():
    calls = []
    both = counted(calls, "both")
    steps(criteria={"layer": both, "neurons": both}, steps=2)
    assert len(calls) == 2
    assert calls[0][1] > calls[1][1]
    calls.clear()
    steps(criteria={"layer": counted(calls, "layer"), "neurons": counted(calls, "neurons")}, steps=1)
    assert [name for name, _ in calls] == ["layer", "neurons"]
    calls.clear()
    steps(criteria={"neurons": counted(calls, "neurons")}, chooser=choosers.always("neurons"), steps=1)
    assert [name for name, _ in calls] == ["neurons"]


@pytest.mark.parametrize(("scores", "kind"), [((0.5, 0.5), "layer"), ((0.1, 0.2), "neurons"), ((-1, -2), "layer")])
def test_search_keeps_the_larger_score_and_of_equal_ones_the_layer(scores, kind):
    chooser = Chooser("fixed", compare=lambda parent, candidates: dict(zip(("layer", "neurons"), scores, strict=True)))
    step = steps(chooser=chooser, steps=1)[-1]
    assert step.kind == kind
    assert step.scores == {"layer": scores[0], "neurons": scores[1]}
    assert set(step.removed) == {"layer", "neurons"}
    assert step.removed["layer"]["macs"] == one_layer() <= step.removed["neurons"]["macs"]


def test_search_gates_candidates_and_compares_them_with_their_parent():
    def compare(parent, candidates):
        assert list(candidates) == ["layer", "neurons"]
        whole = parent.state["gates"]
        counts = {
            kind: {name: int(np.sum(whole[name]) - np.sum(gates)) for name, gates in one.state["gates"].items()}
            for kind, one in candidates.items()
        }
        layers = {group.name for group in MODULE.groups() if group.is_layer}
        assert all((count > 0) <= (name in layers) for name, count in counts["layer"].items())
        assert all((count > 0) <= (name not in layers) for name, count in counts["neurons"].items())
        assert sum(counts["layer"].values()) > 0 < sum(counts["neurons"].values())
        assert all(one.apply == parent.apply for one in candidates.values())
        return {"layer": 0.0, "neurons": 1.0}

    assert steps(chooser=Chooser("watching", compare=compare), steps=2)[-1].kind == "neurons"


def test_search_keeps_the_one_candidate_left_without_a_contest():
    def compare(parent, candidates):
        assert len(candidates) == 2
        return {"layer": 1.0, "neurons": 0.0}

    found = steps(chooser=Chooser("layers first", compare=compare), target=0.5)
    kinds = [step.kind for step in found[1:]]
    assert kinds[:3] == ["layer"] * 3
    assert set(kinds[3:]) == {"neurons"}
    assert all(step.scores for step in found[1:4])
    assert not any(step.scores for step in found[4:])


@pytest.mark.parametrize("allocation", ["paper", "global"])
def test_budgets_of_the_paper_take_as_many_filters_as_the_layer(allocation):
    chooser = Chooser("tie", compare=lambda parent, candidates: dict.fromkeys(candidates, 0.0))
    for step in steps(budget=budgets.filters(), allocation=allocation, chooser=chooser, target=None)[1:]:
        assert step.removed["layer"]["filters"] == step.removed["neurons"]["filters"] in (8, 16)
        assert step.removed["layer"]["macs"] == one_layer()


def test_budgets_in_parameters_are_met():
    step = steps(budget=budgets.parameters(0.1), chooser=choosers.always("neurons"), steps=1)[-1]
    gone, unit = step.removed["neurons"]["parameters"], 2 * 9 * 8 + 2
    assert 0.1 * jp.cost.parameters(dense()) <= gone < 0.1 * jp.cost.parameters(dense()) + unit


def test_budgets_without_a_share_remove_the_mean_of_the_layers():
    network = dense()
    book = jp.structured.account(MODULE, network.params, network.state, IMAGE)
    base = budgets.Base(MODULE, network.params, network.state, book)

    def parameters(gates):
        specification, *arrays = remove(MODULE, network.params, network.state, gates)
        return jp.cost.parameters(specification.network(*arrays))

    layers = [group.name for group in MODULE.groups() if group.is_layer]
    taken = [parameters({}) - parameters({name: np.array([False])}) for name in layers]
    assert np.median(taken) < 0.9 * np.mean(taken)  # more layers of the narrow stage than of the wide one
    assert budgets.parameters().amount(base) == pytest.approx(np.mean(taken), rel=1e-12)
    assert budgets.parameters(0.1).amount(base) == pytest.approx(0.1 * parameters({}), rel=1e-12)


def test_budgets_in_latency_are_measured_on_really_smaller_networks(monkeypatch):
    timed = []

    def clock(network, images, *, repeats):
        assert repeats == 7
        timed.append(jp.cost.macs(network, images.shape[1:]))
        return SimpleNamespace(seconds=timed[-1] * 1e-9)

    monkeypatch.setattr(jp.cost, "latency", clock)
    budget = budgets.latency(images(), 0.1, repeats=7)
    for kind in ("layer", "neurons"):
        chooser = choosers.always(kind)
        got, want = (steps(budget=one, chooser=chooser, steps=1)[-1] for one in (budget, budgets.macs(0.1)))
        identical(got, want)
    assert len(set(timed)) > 3
    assert max(timed) == whole()


@pytest.mark.parametrize("make", [budgets.macs, budgets.parameters, lambda share: budgets.latency(images(), share)])
@pytest.mark.parametrize("share", [0.0, -0.1, 1.0, 1.5, float("nan")])
def test_budgets_name_shares_out_of_range(make, share):
    with pytest.raises(ValueError, match=r"share: expected a f"):
        make(share)


def test_search_wants_a_share_for_a_network_without_layers():
    groups = (networks.MLP_UNITS,)
    shape = jp.structured.Declared(networks.mlp_apply, groups)
    params = {name: leaf for name, leaf in networks.mlp_params().items() if name != "extra"}
    options = {"image_shape": (2, 2, 1), "chooser": choosers.always("neurons"), "target": None}
    with pytest.raises(ValueError, match=r"budget: expected a share of the dense network, since it has no layer"):
        next(search(**options)(shape, shape.network(params, {})))
    found = list(search(**options | {"budget": budgets.macs(0.2), "target": 0.5})(shape, shape.network(params, {})))
    assert [step.specification.groups()[0].size for step in found] == [5, 4, 3, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": 1.0}, r"target: expected the share of operations to remove, in \(0, 1\), but got 1\.0"),
        ({"target": 0.0}, r"target: expected the share"),
        ({"criteria": {"layer": criteria.l2()}}, r"criteria: expected one for 'neurons', but got them for \['layer'\]"),
        (
            {"criteria": {"layers": criteria.l2(), "neurons": criteria.l2()}},
            r"criteria: unknown value 'layers'\. Did you mean",
        ),
        ({"allocation": "paper"}, r"allocation: 'paper' draws an exact number.*but the budget is 'macs'"),
        ({"allocation": "fair"}, r"allocation: unknown value 'fair'"),
        ({"multiple": 0}, r"multiple: expected a whole number of 1 or more"),
    ],
)
def test_search_names_bad_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        steps(**changes)


def test_search_names_ratings_that_are_not_finite():
    def broken(network, groups, gates, batches):
        return {group.name: np.full(group.size, np.nan) for group in groups}

    with pytest.raises(
        ValueError, match=r"criteria: expected 4 finite ratings of 'stage1_block0/units1', but .* gives \[nan"
    ):
        steps(criteria={"layer": broken, "neurons": broken})


def test_search_charges_no_part_with_what_is_compiled_whoever_searches_first(monkeypatch):
    now, event, known = [0.0], "/made up/", set()
    monkeypatch.setattr(compilation, "_now", lambda: now[0])
    monkeypatch.setattr(compilation, "_EVENTS", event)  # what JAX really compiles here has real times

    def takes(seconds, program):
        """Compiles at the first call in the process, then works; the trace around a compilation is an event too."""
        if program not in known:
            known.add(program)
            now[0] += 64.0
            jax.monitoring.record_event_duration_secs(f"{event}compile", 64.0)
            now[0] += 16.0
            jax.monitoring.record_event_duration_secs(f"{event}trace", 80.0)
        now[0] += seconds

    def rated(network, groups, gates, batches):
        takes(1.0, "criterion")
        return criteria.l2()(network, groups, gates, batches)

    def tune(network, parent, step, stage):
        takes({"brief": 2.0, "long": 4.0}[stage], stage)
        return network

    def compare(parent, candidates):
        takes(0.5, "choice")
        return dict.fromkeys(candidates, 0.0)

    options = {"criteria": {"layer": rated, "neurons": rated}, "chooser": Chooser("mine", compare), "tune": tune}
    first, second = (steps(**options, steps=2)[1:] for _ in range(2))
    parts = {"criterion": 1.0, "brief": 4.0, "choice": 0.5, "long": 4.0}
    for step, compiled in zip([*first, *second], [4 * 80.0, 0.0, 0.0, 0.0], strict=True):
        assert step.seconds == parts | {"compile": compiled}


def test_search_compiles_nothing_in_a_second_step():
    compiled = []

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    optimizer, loss = optax.sgd(1e-3), jp.losses.cross_entropy

    def train(network, parent, step, stage):
        return jp.train.fit(network, loss, optimizer, data(), steps=2, batch_size=4, seed=step)

    module = ResNet(full_blocks((4,), 3), 3, 3)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *IMAGE), np.float32))
    variables = networks.random_weights(shapes, seed=0)
    network = module.network(variables.pop("params"), variables)
    rates = {"layer": criteria.l2(), "neurons": effects.second_order(loss)}
    run = search(criteria=rates, chooser=choosers.cka([data()]), tune=train, target=0.9)(module, network)
    next(run)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        first = next(run)
        before = len(compiled)
        second = next(run)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert before > 0
    assert len(compiled) == before
    assert set(first.scores) == set(second.scores) == {"layer", "neurons"}
    assert second.macs < first.macs
    assert ones(module.groups()).keys() == second.gates.keys()
    # It was trained: the head, which nothing was removed from, moved.
    assert np.max(np.abs(second.params["head"]["kernel"] - network.params["head"]["kernel"])) > 0


def test_search_can_recalibrate_statistics_after_a_removal():
    def adjust(network):
        return jp.train.recalibrate(network, [data()], jax.random.key(0))

    found = steps(adjust=adjust, steps=1)[1]
    specification, params, state = remove(MODULE, dense().params, dense().state, found.gates)
    by_hand = jp.train.recalibrate(specification.network(params, state), [data()], jax.random.key(0))
    for name, leaf in jp.tree.by_name(by_hand.state).items():
        np.testing.assert_allclose(jp.tree.leaf(found.state, name), leaf, rtol=1e-10, atol=1e-12)


def test_search_names_a_chooser_that_gives_no_number():
    lost = Chooser("lost", lambda parent, candidates: dict.fromkeys(candidates, float("nan")))
    with pytest.raises(ValueError, match="chooser: expected numbers for layer, neurons, but 'lost' gave"):
        steps(chooser=lost)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criteria": {"layer": lambda *_: {}, "neurons": lambda *_: {}}}, r"criteria: expected 1 finite ratings of"),
        (
            {
                "criteria": dict.fromkeys(
                    ("layer", "neurons"), lambda n, groups, *_: {g.name: np.ones(1) for g in groups}
                )
            },
            r"criteria: expected 4 finite ratings of 'stage1_block0/units1', but .* gives \[1.0\]",
        ),
        ({"chooser": Chooser("lost", before=lambda step, kinds: "both")}, r"chooser: expected one of layer, neurons"),
        (
            {"chooser": Chooser("half", lambda parent, candidates: {"layer": 1.0})},
            r"chooser: expected numbers for layer",
        ),
        ({"scoring": iter([data()])}, r"scoring: expected batches that can be read again"),
        ({"tune": lambda net, *_: net.replace(state={**net.state, "gates": ones(MODULE.groups())})}, r"tune: expected"),
    ],
)
def test_search_checks_what_the_users_functions_return(changes, message):
    with pytest.raises(ValueError, match=message):
        steps(**changes)


@pytest.mark.parametrize("budget", [budgets.parameters(), budgets.parameters(0.3), budgets.macs()])
@pytest.mark.parametrize("kind", ["neurons", "layer"])
def test_search_ends_at_the_target_in_any_currency(budget, kind):
    # A chooser that prefers one kind, and takes the other where there is nothing else.
    chooser = Chooser("first", before=lambda step, kinds: kind if kind in kinds else kinds[0])
    found = steps(chooser=chooser, budget=budget, target=0.45)
    removed = 1 - found[-1].macs / whole()
    # Not beyond it by more than a unit, or a fifth of the last step as a layer.
    last = (found[-2].macs - found[-1].macs) / whole()
    assert 0.45 <= removed <= 0.45 + 0.2 * last + 0.05


def test_search_lets_a_candidate_lose_whose_features_collapsed():
    def collapse(network, parent, step, stage):
        gates = jax.tree.leaves(network.state["gates"])
        layer = not all(bool(np.asarray(gate).all()) for gate in gates if np.size(gate) == 1)
        if layer and stage == "brief":
            zero = jax.tree.map(lambda leaf: 0 * leaf, network.params)
            return network.replace(params=zero)
        return network

    found = steps(chooser=choosers.cka([data()]), tune=collapse, steps=1)[1]
    assert found.kind == "neurons"
    assert found.scores["layer"] == -2.0
