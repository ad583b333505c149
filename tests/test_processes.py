"""What processes agree on, how they wait for each other, and the stations that they go through together."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune import rendezvous, words
from jaxprune.models.resnet import ResNet, full_blocks
from tests import many
from tests.scores.test_divided import demand_same

SCRIPT = """
import json
import numpy as np, jax.numpy as jnp, optax
import jaxprune as jp
from tests.test_processes import stations

index = processes.index()
assert (processes.count(), jax.device_count(), processes.is_first()) == (2, 4, index == 0)
processes.agree("seed", 3)
try:
    processes.agree("settings", {"rate": index})
except ValueError as error:
    said = str(error)
assert said.startswith("settings: expected the same on all 2 processes, but process 0 has"), said
assert '{"rate": 0}' in said and '{"rate": 1}' in said, said
assert processes.gathered("names", f"host {index}") == ["host 0", "host 1"]
calls = []
assert processes.first(lambda: calls.append(index) or [1, "a"]) == [1, "a"]
assert calls == [0] * (index == 0)
try:
    processes.first(lambda: 1 / 0, what="publishing")
except ZeroDivisionError:
    assert index == 0
except RuntimeError as error:
    assert index == 1 and "publishing: process 0 failed with ZeroDivisionError" in str(error), error
if index == 0:
    processes.first(lambda: 1, what="left out by the other")
processes.realign()
assert processes.gathered("after", index) == [0, 1]
try:
    processes.demand_shared("out", "/nowhere")
except ValueError as error:
    assert str(error).startswith("out: process 0 cannot write in '/nowhere' (No such file or directory)."), error
else:
    raise AssertionError
placement = jp.mesh.Placement(jp.mesh.make())
assert placement.host == (index, 2)
for name, values in stations(placement).items():
    print("RESULT", name, json.dumps(np.asarray(values).tolist()), flush=True)
"""


def stations(placement=None):
    """What one process, or several together, make of the same data: the name of a station -> numbers."""
    module = ResNet(full_blocks((4, 3), 4), 3, 4)
    draw = np.random.default_rng(1)
    # Not what init draws: that is float32, and rounds as its program was compiled.
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 8, 8, 1)))

    def drawn(leaf):
        values = draw.standard_normal(leaf.shape)
        return values / np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.7 + 0.1 * values

    variables = jax.tree.map(drawn, shapes)
    local = jp.Network.from_linen(module, variables, train={"train": True})
    data = {"image": draw.standard_normal((12, 8, 8, 1)), "label": np.arange(12) % 3}
    weight = {"weight": np.linspace(0.1, 1, 12)}
    host = (0, 1) if placement is None else placement.host
    bring = dict if placement is None else placement.batch
    batches = [bring(batch) for batch in jp.data.Batches({**data, **weight}, 8, host)]
    net = jax.tree.map(jnp.asarray, local) if placement is None else placement.tree(local)
    found = {}
    for name, score in {
        "snip": jp.scores.snip(jp.losses.cross_entropy),
        "fisher": jp.scores.fisher(jp.losses.cross_entropy),
        "diagonal": jp.scores.diagonal_hessian(jp.losses.cross_entropy),
    }.items():
        found[name] = score(net, batches)
    prunable = jp.tree.prunable(local.params, exclude="^head/")
    mask = jp.masks.unstructured(0.5)(found["snip"], prunable)
    found["mask"] = mask
    tx = jp.optim.with_mask(optax.adam(1e-2), mask)
    options = {"steps": 2, "batch_size": 8, "seed": 0}
    places = {"trained": placement}
    if placement is not None:
        places["trained, split"] = jp.mesh.Placement(placement.mesh, split=True)
    for name, place in places.items():
        found[name] = jp.train.fit(local, jp.losses.cross_entropy, tx, data, **options, placement=place).params
    found["features"] = jp.evaluate.transfer.features(net, batches)
    found["accuracy"] = [jp.evaluate.transfer.accuracy(batches)(net)["accuracy"]]
    found["loss"] = [jp.evaluate.transfer.mean_loss(jp.losses.cross_entropy, batches)(net)["loss"]]
    unweighted = {name: one for name, one in batches[0].items() if name != "weight"}  # statistics know no weights
    found["recalibrated"] = jp.train.recalibrate(net, [unweighted], jax.random.key(0)).state
    ends = jax.jit(lambda network, images: jp.sites.read(network, images, ["stage1/block1", "features"]))
    left, right = (one.reshape(len(one), -1) for one in ends(net, batches[0]["image"]))
    found["similarity"] = [
        *(getattr(jp.similarity, name)(left, right) for name in ("linear_cka", "rbf_cka", "procrustes", "rsa")),
        jp.similarity.svcca(left, right, variance=0.5),
        jp.similarity.mutual_neighbours(left, right, neighbours=3),
        jp.similarity.streaming_cka([(left, right), (left**2, right)]),
        jp.similarity.minibatch_cka([(left, right)]),
    ]
    operator = jp.geometry.operator(net, jp.losses.cross_entropy, batches)
    key = jax.random.key(0)
    found["geometry"] = [
        jp.geometry.eigenpairs(operator, count=1, steps=6, key=key).values,
        jp.geometry.trace(operator, key=key, probes=2).value,
    ]
    search = jp.structured.Search(
        criteria=dict.fromkeys(("layer", "neurons"), jp.structured.criteria.l2()),
        chooser=jp.structured.choosers.cka(batches),
        tune=lambda network, parent, number, stage: network,
        scoring=batches,
        image_shape=(8, 8, 1),
        target=None,
        steps=1,
        budget=jp.structured.budgets.macs(share=0.1),
    )
    _, step = search(module, net)
    found["contest"] = [step.macs, *step.scores.values()]
    found["searched"] = step.params
    read = jp.processes.read(found)
    return {name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for name, tree in read.items()}


def demand_stations(found, alone):
    assert found.keys() == alone.keys()
    for name, values in found.items():
        # Adam divides by roots of squares of gradients, of which rounding is a larger part.
        most = 1e-8 if "trained" in name else 1e-12
        demand_same({name: np.asarray(values, float)}, {name: np.asarray(alone[name], float)}, most)


def test_start_brings_two_processes_and_eight_devices_through_every_station_with_the_numbers_of_one(tmp_path):
    alone = stations()
    alone["trained, split"] = alone["trained"]
    demand_stations(stations(jp.mesh.Placement(jp.mesh.make())), alone)
    for output in many.run(tmp_path, SCRIPT):
        rows = [line.removeprefix("RESULT ") for line in output.splitlines() if line.startswith("RESULT ")]
        demand_stations({row[: row.index(" [")]: json.loads(row[row.index(" [") :]) for row in rows}, alone)


MISSING = """
import sys
from jaxprune import processes
try:
    processes.start(sys.argv[1], 3, int(sys.argv[2]), limit=8)
except RuntimeError as error:
    print(error)
"""


def test_start_names_the_process_that_never_comes_on_every_other(tmp_path):
    where = many.address()
    words = [sys.executable, "-c", MISSING, where]
    started = [subprocess.Popen([*words, place], stdout=subprocess.PIPE, text=True, cwd=many.ROOT) for place in "01"]
    for process in started:
        said, _ = process.communicate(timeout=many.LIMIT)
        assert said.startswith("start: process 2 of 3 did not come within 8 s."), said


def test_missing_is_process_0_where_nobody_answers():
    assert rendezvous.missing(many.address(), 3, 1, 0.3) == [0]
    assert rendezvous.missing(many.address(), 2, 0, 0.3) == [1]


def test_heard_finds_a_word_for_which_a_wait_is_too_short(monkeypatch):
    found = {"there": "said"}

    class Slow:
        """A store that answers no wait in time."""

        def blocking_key_value_get(self, key, milliseconds):
            found["late"] = "said"
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")

        def key_value_try_get(self, key):
            if key not in found:
                raise jax.errors.JaxRuntimeError("NOT_FOUND")
            return found[key]

    monkeypatch.setattr(words, "client", Slow)
    assert words.heard("nowhere", 0.0) is None
    assert words.heard("there", 0.0) == "said"
    assert words.heard("late", 0.9) == "said"
    assert words.heard("nowhere", 1e-3) is None


def test_start_alone_changes_nothing_and_asks_for_all_arguments_or_none():
    jp.processes.start()
    assert (jp.processes.index(), jp.processes.count(), jp.processes.is_first()) == (0, 1, True)
    jp.processes.meet("nothing")
    jp.processes.realign()
    jp.processes.agree("seed", 1)
    assert jp.processes.gathered("x", {"a": 1}) == [{"a": 1}]
    assert jp.processes.first(lambda: 3) == 3
    assert jp.processes.stopping(1, wanted=True)
    with pytest.raises(ValueError, match="address, count, index: expected all of them or none"):
        jp.processes.start("localhost:1", 2)
    with pytest.raises(ValueError, match="limit"):
        jp.processes.start(limit=0)


def test_read_brings_arrays_of_many_devices_to_the_host():
    mesh = jp.mesh.make()
    tree = {"split": jp.mesh.shard_batch(mesh, np.arange(16.0)), "whole": jp.mesh.replicate(mesh, np.ones(3)), "n": 2}
    found = jp.processes.read(tree)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
    np.testing.assert_array_equal(found["split"], np.arange(16.0))
    assert found["n"] == 2
    assert jp.processes.read(jnp.ones(2)).sum() == 2
