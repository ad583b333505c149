"""Checkpoints that two processes of two devices write together: read anywhere, and what kills and signals leave."""

import json
import re

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import checkpoint
from tests import many

# What all runs begin with: a training of six steps whose weights are split over four devices.
BEGIN = """
import hashlib, json, os, pathlib, signal, sys, warnings
import numpy as np, jax, jax.numpy as jnp, optax
import jaxprune as jp
from jaxprune import checkpoint, exclusive

index, here = processes.index(), pathlib.Path(sys.argv[0]).parent
placement = jp.mesh.Placement(jp.mesh.make(), split=True)

def applied(params, state, images):
    return jax.nn.relu(images @ params["in"]) @ params["out"]

draw = np.random.default_rng(0)
weights = {"in": draw.normal(size=(6, 8)), "out": draw.normal(size=(8, 3))}
data = {"image": draw.normal(size=(24, 6)), "label": np.arange(24) % 3}

def train(folder, at=None, what=None, seed=0, steps=6):
    def log(step, found):
        if step == at and index == 1:
            os.kill(os.getpid(), what)
    net = jp.Network(applied, jax.tree.map(jnp.asarray, weights))
    options = dict(steps=steps, batch_size=8, seed=seed, placement=placement, log=log, log_every=1, save_every=2)
    return jp.train.fit(net, jp.losses.cross_entropy, optax.adam(1e-2), data, folder=here / folder, **options)

def say(name, value):
    print("RESULT", name, json.dumps(value), flush=True)

def digest(tree):
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(processes.read(tree)))).hexdigest()
"""

KILLED = (
    BEGIN
    + """
train("killed", 3, signal.SIGKILL)
"""
)

STATIONS = (
    BEGIN
    + """
say("straight", digest(train("straight").params))
say("killed", digest(train("killed").params))
state = {"w": placement.tree(np.arange(24.0).reshape(8, 3)), "b": jp.mesh.replicate(placement.mesh, np.ones(3)), "n": 3}
like = jax.tree.map(lambda leaf: leaf * 0, state)
checkpoint.save(here / "saved", 1, state)
path = checkpoint.save(here / "saved", 2, jax.tree.map(lambda leaf: leaf * 2, state))
say("files", sorted(each.name for each in path.iterdir()))
step, got = checkpoint.restore(here / "saved", like)
same = all(one.sharding == other.sharding for one, other in zip(*map(jax.tree.leaves, (got["w"], like["w"]))))
say("restored", [step, same, processes.read(got)["w"].tolist()])

def refused(name, function):
    try:
        function()
        say(name, "nothing")
    except (ValueError, RuntimeError) as error:
        say(name, f"{type(error).__name__}: {error}")

refused("again", lambda: checkpoint.save(here / "saved", 2, state))
held = exclusive.hold(here / "saved" / ".writer") if index == 0 else None
processes.meet("held")
refused("held", lambda: checkpoint.save(here / "saved", 3, state))
if held: held.release()
refused("apart", lambda: checkpoint.save(here / f"apart{index}", 3, state))
refused("seed", lambda: train("other", seed=index))
refused("another", lambda: train("straight", seed=5))

flipped = here / "saved" / "00000002" / "part-1.bin"
if index == 0:
    raw = bytearray(flipped.read_bytes())
    raw[len(raw) // 2] ^= 1
    flipped.write_bytes(bytes(raw))
processes.meet("flipped")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    step, got = checkpoint.restore(here / "saved", like)
say("fell back", [step, processes.read(got)["w"].tolist(), [str(one.message) for one in caught]])
try:
    train("told", 2, signal.SIGTERM, steps=40)
except SystemExit as end:
    say("told", [end.code, checkpoint.steps(here / "told")[-1]])
"""
)

RESUMED = (
    BEGIN
    + """
say("told", digest(train("told", steps=40).params))
say("straight", digest(train("longer", steps=40).params))
"""
)


def results(output):
    return {name: json.loads(value) for name, value in re.findall(r"RESULT ([\w ]+?) ([\[\"{].*)", output)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run in which one process is killed, one that goes on and is told to stop, and one that goes on."""
    folder = tmp_path_factory.mktemp("together")
    many.run(folder, KILLED, lost=1)
    assert checkpoint.steps(folder / "killed") == [2]
    stations = [results(output) for output in many.run(folder, STATIONS)]
    assert checkpoint.steps(folder / "told")[-1] == stations[0]["told"][1]
    return folder, stations, [results(output) for output in many.run(folder, RESUMED)]


def test_fit_goes_on_where_one_of_two_processes_was_killed(ran):
    folder, stations, _ = ran
    for found in stations:
        assert found["killed"] == found["straight"] == stations[0]["straight"]
    lines = [(folder / name / "metrics.jsonl").read_text() for name in ("killed", "straight")]
    assert lines[0] == lines[1]
    assert [json.loads(line)["step"] for line in lines[0].splitlines()] == [1, 2, 3, 4, 5, 6]


def test_fit_ends_on_all_processes_after_one_step_where_one_is_told_to(ran):
    folder, stations, resumed = ran
    code, step = stations[0]["told"]
    assert stations[1]["told"] == [code, step]
    assert code == 143
    assert 2 <= step < 40
    for found in resumed:
        assert found["told"] == found["straight"] == resumed[0]["straight"]
    lines = [(folder / name / "metrics.jsonl").read_text() for name in ("told", "longer")]
    assert lines[0] == lines[1]


def test_save_of_two_processes_is_restored_by_two_and_by_one_on_any_devices(ran):
    folder, stations, _ = ran
    want = np.arange(24.0).reshape(8, 3)
    for found in stations:
        assert found["files"] == ["manifest.json", "part-0.bin", "part-0.json", "part-1.bin", "part-1.json"]
        assert found["restored"] == [2, True, (2 * want).tolist()]
    like = {"w": np.zeros((8, 3)), "b": np.zeros(3), "n": 3}
    mesh = jp.mesh.make()
    for place in (lambda tree: tree, lambda tree: jp.mesh.shard_leaves(mesh, tree)):
        step, got = checkpoint.restore(folder / "saved", place(like)) or (0, like)
        assert step == 1
        np.testing.assert_array_equal(got["w"], want)
        np.testing.assert_array_equal(got["b"], np.ones(3))
    assert got["w"].sharding == place(like)["w"].sharding
    assert len(got["w"].sharding.device_set) == jax.device_count() == 8


def test_restore_falls_back_on_all_processes_by_a_flipped_byte_of_one(ran):
    for found in ran[1]:
        step, values, said = found["fell back"]
        assert (step, values) == (1, np.arange(24.0).reshape(8, 3).tolist())
        assert len(said) == 1
        assert re.search(r"00000002' is damaged \(the bytes of \w+ have changed\).* renamed to", said[0])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("again", r"step: '.*00000002' exists"),
        ("held", r"folder: expected one that nobody else writes into, but process \d+ on"),
        ("another", r"holds a run with another seed \(0, not 5\)"),
    ],
)
def test_writer_refuses_on_all_processes_what_the_first_refuses(ran, name, words):
    first, second = (found[name] for found in ran[1])
    assert re.match(f"ValueError: .*{words}", first)
    assert re.match(f"RuntimeError: .*: process 0 failed with ValueError: .*{words}", second)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("apart", r"folder: expected one that all 2 processes share, but process 1 has not seen"),
        ("seed", r"seed: expected the same on all 2 processes, but process 0 has 0; process 1 has 1"),
    ],
)
def test_writer_and_fit_refuse_processes_that_differ_on_all_of_them(ran, name, words):
    for found in ran[1]:
        assert re.match(f"ValueError: {words}", found[name])
