"""From records to verdicts, and what pages say of them."""

import json

import numpy as np
import pandas as pd
import pytest

import jaxprune as jp
from experiments import patterns
from experiments.shared import pages
from experiments.shared.conditions import Conditions
from experiments.shared.results import (
    FLOOR,
    SHARES,
    Case,
    Claim,
    Results,
    above_zero,
    at_chance,
    case,
    interval,
    paired,
    verdicts,
)
from experiments.shared.splits import Inputs
from experiments.transfer import results as transfer_results
from jaxprune import files, report, stats


def hits(share: float, count: int = 200) -> np.ndarray:
    return (np.arange(count) < share * count).astype(np.float64)


def claim(*cases: Case, alone: bool = False) -> Claim:
    return Claim("kept", "more than before", lambda _: cases, above_zero, alone=alone)


def test_verdicts_of_one_seed_are_undecided_unless_the_claim_is_about_that_network():
    sure = case({"number": 1}, [hits(0.9)], bounds=SHARES)
    assert sure.interval.low > 0.8
    assert verdicts(None, [claim(sure)]).verdict.tolist() == ["undecided"]
    assert verdicts(None, [claim(sure, alone=True)]).verdict.tolist() == ["holds"]
    several = case({"number": 1}, [hits(0.9)] * 3, "shared", bounds=SHARES)
    assert verdicts(None, [claim(several)]).verdict.tolist() == ["holds"]
    # That two networks guess is said of these very networks.
    guessing = case({"number": 1}, [hits(0.1)], bounds=SHARES, verdict=FLOOR)
    assert verdicts(None, [claim(guessing)]).verdict.tolist() == [FLOOR]
    found = case({"number": 1}, [hits(0.1)], bounds=SHARES, verdict="found")
    assert verdicts(None, [claim(found)]).verdict.tolist() == ["undecided"]


def test_paired_is_the_interval_of_differences_on_the_same_images():
    rng = np.random.default_rng(0)
    pool, places = rng.random(400), [rng.choice(400, 300, replace=False) for _ in range(3)]
    this, than = ([(pool[at] < share).astype(float) for at in places] for share in (0.8, 0.7))
    found = paired({"score": "x"}, this, than, places, chance=0.1)
    differences = [one - other for one, other in zip(this, than, strict=True)]
    assert found.interval == stats.interval(differences, examples=places, bounds=(-1, 1))
    assert (found.n, found.seeds, found.verdict) == (900, 3, "")
    assert found.interval.high > paired({}, this, than, "fresh", chance=0.1).interval.high


def test_paired_says_nothing_of_two_networks_that_guess():
    sides = [[hits(0.12)] * 3, [hits(0.1)] * 3]
    assert paired({}, *sides, "shared", chance=0.1).verdict == FLOOR
    # One that does not guess is enough.
    assert not paired({}, [hits(0.5)] * 3, sides[1], "shared", chance=0.1).verdict


def test_at_chance_asks_these_very_networks_and_no_others():
    """Seeds that differ make an interval for other seeds wide; these networks are no guess for that."""
    apart = [hits(0.3), hits(0.9), hits(0.6)]
    assert interval(apart, "shared", SHARES).low < 0.2
    assert not at_chance(apart, "shared", 0.2)
    assert at_chance([hits(0.21), hits(0.19)], "fresh", 0.2)


def test_at_chance_counts_an_image_once():
    """Ten networks that are all alike say no more than one of them, whatever the order of their images."""
    right = hits(0.112, 500)
    assert at_chance([right], [np.arange(500)], 0.1)
    assert at_chance([right] * 10, "shared", 0.1)
    orders = [np.random.default_rng(seed).permutation(500) for seed in range(10)]
    assert at_chance([right[order] for order in orders], orders, 0.1)
    assert not at_chance([right] * 10, "fresh", 0.1)


def test_tested_numbers_equal_images_equally_whatever_the_seed():
    images = jp.data.digits()
    tasks = tuple(jp.data.Task(name, classes) for name, classes in (("low", (0, 1)), ("high", (8, 9))))
    inputs = Inputs(Conditions(), images, None, tasks, tasks[0])
    for seed in (0, 1):
        both = inputs.tested(seed, ["low", "high"])
        source, places = inputs.indices(seed, "test", (0, 1))
        np.testing.assert_array_equal(both[: len(places)], places)
        assert source is images
        np.testing.assert_array_equal(both[len(places) :], inputs.tested(seed, ["high"]))
        assert len(np.unique(both)) == len(both)
        # In the order that is asked for, such as that of a record.
        turned = np.r_[inputs.tested(seed, ["high"]), inputs.tested(seed, ["low"])]
        np.testing.assert_array_equal(inputs.tested(seed, ["high", "low"]), turned)
    shared = np.intersect1d(inputs.tested(0, ["low"]), inputs.tested(1, ["low"]))
    assert 0 < len(shared) < len(inputs.tested(0, ["low"]))  # split anew


def test_examples_are_in_the_order_of_hits_whatever_that_of_a_stored_record(tmp_path):
    """Hits that an image alone decides are equal in all seeds, if they are the right image's."""
    images = jp.data.digits()
    names = {"src": (0, 1), "zebra": (2, 3, 4), "apple": (5, 6)}
    tasks = tuple(jp.data.Task(name, classes) for name, classes in names.items())
    inputs = Inputs(Conditions(), images, None, tasks, tasks[0])
    easy = np.random.default_rng(0).random(len(images)) < 0.7
    records = []
    for seed in range(3):
        found = {}
        for task in tasks:
            _, places = inputs.indices(seed, "test", task.classes)
            found[task.name] = {"hits": "".join("01"[int(one)] for one in easy[places])}
        domains = {task.name: {"task": task.name, "shift": None, "chance": task.chance} for task in tasks}
        stages = {stage: {"frozen": found, "refitted": found} for stage in ("pruned", "finetuned")}
        metrics = {"source": "src", "domains": domains, **stages}
        config = {"seed": seed, "objective": "none", "score": "dense", "update": "none", "sparsity": 0.0}
        config["@type"] = "Run"
        path = tmp_path / f"{seed}.json"
        files.write_json(path, {"config": config, "metrics": metrics, "data": ""})
        records.append(json.loads(path.read_text()))
    assert list(records[0]["metrics"]["domains"]) == sorted(names)
    results = transfer_results.Results(records, inputs)
    flat = {"source": "src", **{stage: records[0]["metrics"][stage]["frozen"] for stage in ("pruned", "finetuned")}}
    generic = Results([{**records[0], "metrics": flat}], inputs)
    for group in ("source", "transfer"):
        for places, right in zip(results.examples(group), results.hits("dense", 0.0, "pruned", group), strict=True):
            np.testing.assert_array_equal(right, easy[places % len(images)])
        (places,) = generic.examples(group)
        np.testing.assert_array_equal(patterns.hits(flat, group), easy[places % len(images)])


def table(*rows: tuple[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["claim", "verdict"])
    return frame.assign(meaning="it is so", mean=0.01, low=-0.02, high=0.04, n=30, seeds=3, unit="share")


def test_claims_table_counts_verdicts_and_those_that_chance_would_give():
    page = report.Page("Title", "Summary.")
    pages.claims_table(page, table(("P1", "holds"), ("P1", "undecided"), ("P1", "holds"), ("P2", FLOOR)))
    text = page.html()
    assert "P1<small>it is so</small>" in text
    counts = '<td class="good">2</td><td class="none">0</td><td class="unsure">1</td><td class="none">0</td>'
    assert f"</th>{counts}<td>0.1</td>" in text
    assert '<td class="none">1</td><td>0.0</td>' in text


def test_verdict_table_shows_intervals_without_hovering():
    page = report.Page("Title", "Summary.")
    rows = table(("P1", "holds"), ("P1", "undecided")).assign(score="magnitude", sparsity=[0.5, 0.9])
    pages.verdict_table(page, rows, "score", "sparsity")
    text = page.html()
    assert "holds<small>+1.0 (−2.0 to +4.0)</small>" in text
    assert "P1: it is so (points; n = 30, 3 seeds)" in text


def test_by_chance_is_none_of_one_seed():
    assert pages.by_chance(table(*[("P1", "holds")] * 40)) == "1.0"
    assert pages.by_chance(table(*[("P1", "undecided")] * 40).assign(seeds=1)) == "0.0"


@pytest.mark.parametrize(("count", "said"), [(1, "One seed: "), (2, "Two seeds "), (3, ""), (10, "")])
def test_few_seeds_says_what_they_leave_open(count, said):
    assert pages.few_seeds(count).startswith(said)
    assert bool(pages.few_seeds(count)) == bool(said)
