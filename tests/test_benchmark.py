"""The tools of scripts/benchmark: ratios, table, file, converted weights.  What it measures is not tested here."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def load(monkeypatch):
    """Imports a module of the scripts, and leaves no compiled file beside it."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return importlib.import_module


@pytest.fixture
def rows(load):
    return load("benchmark_rows")


@pytest.fixture
def networks(load):
    return load("benchmark_networks")


class Clock:
    """A clock that moves only when some work says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, *seconds):
        """Work whose first call takes 100 s and whose later calls take these."""
        waiting = [100.0, *seconds]

        def run():
            self.now += waiting.pop(0)
            return "result"

        return run


def test_measure_gives_the_median_of_the_ratios_of_every_round(rows):
    clock = Clock()
    timing = rows.measure(clock.work(1, 2, 2), {"work": clock.work(3, 2, 4)}, rounds=3, clock=clock)["work"]
    row = timing.row("work", at_most=2.5)
    assert row.gradients == (3.0, 1.0, 2.0)  # the ratio of the medians would be 1.5
    assert (row.values, row.first, row.met) == ((3.0, 2.0, 4.0), 100.0, True)
    assert "2 (1 to 3)" in row.line()
    assert timing.result == "result"


def test_measure_puts_each_piece_of_work_behind_a_gradient_of_its_own(rows):
    order = []
    works = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    rows.measure(lambda: order.append("gradient"), works, rounds=2)
    assert order == ["gradient", "a", "b", *["gradient", "a", "gradient", "b"] * 2]


def test_over_takes_the_ratios_of_two_works_in_the_same_round(rows):
    ours, theirs = rows.Timing(seconds=[1.0, 6.0, 3.0]), rows.Timing(seconds=[4.0, 8.0, 4.0])
    row = ours.over(theirs, "ours over theirs", factor=2, at_most=1.5)
    assert row.values == (0.5, 1.5, 1.5)
    assert row.met
    assert row.note == "0.5 by the fastest rounds"


def test_measure_names_what_fails_and_measures_the_rest(rows):
    clock = Clock()
    works = {"broken": lambda: 1 / 0, "sound": clock.work(1)}
    timings = rows.measure(clock.work(1, 1), works, rounds=1, clock=clock)
    broken = timings["broken"].row("broken", at_most=2.0)
    assert broken.missing == "ZeroDivisionError: division by zero"
    assert broken.met is None
    assert broken.line().rstrip().endswith("not measured")
    assert "ZeroDivisionError" in broken.remark()
    assert timings["sound"].row("sound").gradients == (1.0,)
    assert timings["sound"].over(timings["broken"], "ratio").missing == broken.missing
    assert rows.fastest(timings.values()) is timings["sound"]
    assert rows.fastest([timings["broken"]]) is timings["broken"]


@pytest.mark.parametrize(
    ("bound", "met"),
    [({"at_most": 2.0}, True), ({"at_most": 1.9}, False), ({"at_least": 2.0}, True), ({"at_least": 2.1}, False)],
)
def test_row_is_met_by_its_median(rows, bound, met):
    assert rows.Row("times", (1.0, 2.0, 2.5), "times", **bound).met is met
    assert rows.Row("seconds", (1.0, 2.0, 2.5), gradients=(1.0, 2.0, 2.5), **bound).met is met
    assert rows.Row("nothing asked", (1.0,)).met is None


def test_row_gives_no_verdict_by_a_stalled_gradient(rows):
    # Seen once: a gradient of 65 s among others of 0.27 s, so that the product beside it looked 200 times cheaper.
    seconds, units = (0.3557, 0.3595), (0.2688, 65.1299)
    ratios = tuple(a / b for a, b in zip(seconds, units, strict=True))
    row = rows.Row("product", seconds, gradients=ratios, at_most=1.4)
    assert (row.disturbed, row.met) == (1, None)
    assert row.line().rstrip().endswith("disturbed")
    assert "1 of 2 rounds were disturbed" in row.remark()
    # One of nine does not move the median, but is told; a slow work counts as a slow gradient does.
    many = rows.Row("product", (0.36,) * 9, gradients=(1.3,) * 8 + (0.005,), at_most=1.4)
    assert (many.disturbed, many.met) == (1, True)
    assert "1 of 9" in many.remark()
    assert rows.Row("ratio", (0.4, 0.4, 9.0), "times", at_most=0.5).met is None
    assert rows.Row("count", (0.0,), "", at_most=0.0).met


def test_row_has_its_columns_under_their_heads(rows):
    line = rows.Row("product", (0.5,), gradients=(1.5,), first=12.0, at_most=1.0, note="a remark").line()
    assert line.index("at most 1 gradients") == rows.HEADER.index("asked")
    assert line.index("NO") == rows.HEADER.index("met?")
    for text, head in (("0.5 s", "measured"), ("1.5 (1.5 to 1.5)", "in gradients"), ("12.0 s", "first call")):
        assert line.index(text) + len(text) == rows.HEADER.index(head) + len(head)


def test_difference_is_that_of_the_worst_leaf(rows):
    left, right = {"a": np.ones(4), "b": np.full(2, 1.1)}, {"a": np.ones(4), "b": np.ones(2)}
    assert rows.difference(left, right) == pytest.approx(0.1)
    # Rounding where nothing should be is no difference; nothing where something should be is.
    assert rows.difference(left | {"c": np.full(1, 1e-9)}, right | {"c": np.zeros(1)}) == pytest.approx(0.1)
    assert rows.difference(left | {"c": np.zeros(1)}, right | {"c": np.ones(1)}) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"only one side has \['b'\]"):
        rows.difference(left, {"a": np.ones(4)})


def test_same_takes_numbers_that_differ_for_no_measurement(load, rows):
    same = load("benchmark_curvature").same
    row = rows.Row("product", (0.5,), at_most=1.0)
    assert same(row, 1e-6, "the other side").met
    assert same(row, 0.5, "the other side").missing == "its numbers differ from the other side by 5.0e-01"
    assert same(row, float("nan"), "the other side").missing


def test_keep_writes_every_number_and_leaves_the_other_cases(load, rows, tmp_path):
    benchmark = load("benchmark")
    row = rows.Row("product", (0.5, 0.25), gradients=(2.0, 1.0), first=3.0, at_most=1.6)
    path = tmp_path / "results" / "benchmark.json"
    for case in ("one", "two", "one"):
        benchmark.keep(path, case, [row], rounds=2)
    kept = json.loads(path.read_text())["cases"]
    assert set(kept) == {"one", "two"}
    found = kept["one"]["rows"][0]
    assert (found.pop("met"), found.pop("disturbed")) == (True, 0)
    assert benchmark.from_json(found) == row
    assert kept["one"]["versions"]["jax"] == jax.__version__
    assert dataclasses.asdict(row).keys() == found.keys()


def test_measured_says_that_a_case_breaks_or_takes_too_long(load):
    benchmark = load("benchmark")
    (broken,) = benchmark.measured("benchmark_rows:nothing", quick=True, limit=60)
    assert broken.missing.startswith("it ended with status 1: AttributeError")
    (late,) = benchmark.measured("benchmark_rows:nothing", quick=True, limit=0.01)
    assert late.missing == "it took longer than 0.01 s"


def test_main_refuses_an_unknown_part(load, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "mask"])
    with pytest.raises(SystemExit):
        load("benchmark").main()
    known = (
        "masks or structured or discovered or representation or rounds or heads or safety or pretrained or pipeline or "
        "curvature"
    )
    assert f"expected {known}, but got mask." in capsys.readouterr().err


class Small(nn.Module):
    """One convolution, BatchNorm, ReLU, mean, head."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(4, (1, 1), use_bias=False, name="conv")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return nn.Dense(5, name="head")(jnp.mean(x, axis=(1, 2)))


def test_subject_is_what_it_says_in_our_layout_and_in_that_of_pytorch(networks):
    here = networks.subject(Small(), image=8, batch=4, classes=5)
    network = here.network
    convolved = here.batch["image"] @ network.params["conv"]["kernel"][0, 0]
    found = network.state["batch_stats"]["norm"]
    np.testing.assert_allclose(found["mean"], jnp.mean(convolved, (0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(found["var"], jnp.var(convolved, (0, 1, 2)), rtol=1e-4)
    assert len(here.in_scope(network.params)) == 2
    assert sum(jax.tree.leaves(here.scope(lambda name: name.startswith("head")))) == 1

    weights = networks.torch_weights(network)
    assert weights["conv.weight"].shape == (4, 3, 1, 1)
    assert weights["norm.weight"].shape == weights["norm.running_var"].shape == (4,)
    assert weights["head.weight"].shape == (5, 4)
    assert len(weights) == len(jax.tree.leaves((network.params, network.state)))
    for name, leaf in zip(jp.tree.names(network.params), jax.tree.leaves(network.params), strict=True):
        np.testing.assert_array_equal(networks.flax_layout(name, networks.torch_layout(name, leaf)), leaf)

    loss, slopes = here.gradient()
    assert 0 < float(loss) < 10
    assert jp.tree.names(slopes) == jp.tree.names(here.vector)


def test_only_leaves_one_filter(networks):
    tree = {"a": {"kernel": np.ones((3, 3, 2, 4))}, "b": {"kernel": np.ones((2, 4))}}
    cut = networks.only(tree, "a/kernel", 1)
    assert (jp.tree.size(cut), float(jp.tree.dot(cut, tree))) == (80, 18)
    assert float(jnp.sum(cut["a"]["kernel"][..., 1])) == 18


def test_other_side_without_pytorch_is_missing_alone(load, rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "benchmark_torch", None)
    side = load("benchmark_curvature").other_side(subject=None)
    works = {"ours": lambda: None, "theirs": lambda: side().gradient()}
    timings = rows.measure(lambda: None, works, rounds=1)
    assert "benchmark_torch" in timings["theirs"].missing
    assert timings["ours"].row("ours").gradients


def test_new_programs_are_found_with_their_memory(load):
    memory = load("benchmark_memory")
    known = memory.programs()
    double = jax.jit(lambda x: jnp.sin(x) @ x)
    double(np.ones((500, 500)))
    assert max(found["peak"] for found in memory.new_programs(known)) == pytest.approx(4.0, rel=0.5)
    assert memory.resident() > 50


def test_resnet50_says_that_there_is_no_accelerator(load):
    (row,) = load("benchmark_accelerator").resnet50(1)
    assert row.missing == "not run: there is no accelerator here"


def test_drawn_keeps_the_rungs_of_a_draw_together(load):
    safety = load("benchmark_safety")
    # The second rung flips what the first does and one more image of ten; the third undoes what the first does.
    values = np.zeros((3, 10), np.int8)
    values[0, :2], values[1, :3], values[2, :2] = 1, 1, -1
    found = safety.drawn(values, 50)
    assert found.shape == (safety.DRAWS, 3)
    np.testing.assert_array_equal(found[:, 2], -found[:, 0])
    assert np.all(found[:, 1] >= found[:, 0])
    np.testing.assert_allclose(found.mean(axis=0), 50 * values.mean(axis=1), atol=0.15)
    np.testing.assert_allclose(found[:, 0].var(), 50 * 0.2 * 0.8, rtol=0.1)


def test_draws_count_what_is_beyond_the_first_unsafe_rung(load):
    safety = load("benchmark_safety")
    safe = np.arange(len(safety.SPARSITIES)) != 2
    found = safety.Draws(np.array([0, 2, 3, 5]), safe)
    assert (found.most, found.violations, found.oracle) == (2, 0.5, safety.SPARSITIES[1])
    assert found.given_away == pytest.approx(0.12 - np.mean([0, 0.12, 0.14, 0.18]))
