"""One chain for twelve networks with nothing declared: found, proven, halved, tuned, saved, and used by a stranger."""

import json
import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.structured import Search, Traced, budgets, choosers, criteria, discover, gated, save_program
from jaxprune.structured.gates import outputs
from tests import haste
from tests.structured.discovery import twelve
from tests.structured.discovery.comparing import sliced

BATCH = {"image": twelve.images(), "label": np.array([0, 1, 2, 0])}
LOSS = jp.losses.cross_entropy
STEPS = 3
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
ROOT = Path(__file__).parents[3]

# What a process does that has never seen the networks: loads all, and says how far it is from what their owner had.
STRANGER = """
import json, sys
import jax, numpy as np
import jaxprune as jp
jax.config.update("jax_enable_x64", True)
def apart(got, want):
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())
found = {}
for name, folder in json.loads(sys.argv[1]).items():
    net, known = jp.structured.load_program(folder), np.load(folder + ".npz")
    exact = jp.tree.by_name(jp.curvature.diagonal(net, jp.losses.distillation(), {"image": known["image"]}))
    flat = [np.concatenate([one[leaf].ravel() for leaf in exact]) for one in (exact, known)]
    found[name] = [apart(jax.jit(lambda images: net(images))(known["image"]), known["outputs"]), apart(*flat)]
print(json.dumps({"apart": found, "strange": sorted({"tests", "equinox"} & set(sys.modules))}))
"""


@jax.jit
def tuned(network):
    """Some steps of gradient descent in training mode: the network, and the loss before each."""

    def loss(params, state):
        train = network.train_apply or (
            lambda params, state, images, rngs: (network.apply(params, state, images), state)
        )
        outputs, state = train(params, state, BATCH["image"], {"dropout": jax.random.key(0)})
        return jnp.mean(LOSS(outputs, BATCH)), state

    def step(carry, _):
        (value, state), slopes = jax.value_and_grad(loss, has_aux=True)(*carry)
        return (jax.tree.map(lambda weight, slope: weight - 0.01 * slope, carry[0], slopes), state), value

    (params, state), losses = jax.lax.scan(step, (network.params, network.state), None, STEPS)
    return network.replace(params=params, state=state), losses


def halved(name):
    """Finds and proves the units of a network, and searches until half of its operations are gone."""
    net = twelve.network(name)
    found = discover(net, BATCH["image"], prove=True)
    search = Search(
        criteria={"neurons": criteria.l2()},
        chooser=choosers.always("neurons"),
        tune=lambda network, parent, step, stage: network,
        scoring=[BATCH],
        image_shape=twelve.IMAGE,
        target=0.5,
        budget=budgets.macs(0.6),
    )
    return net, found, *search(Traced.of(net, found), net)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Does all of a chain once: every test looks at a part of what came out."""
    folder = tmp_path_factory.mktemp("saved")

    @cache
    def done(name):
        net, found, dense, last = halved(name)
        tuned_one, losses = tuned(last.network)
        saved = save_program(folder / name, tuned_one, BATCH["image"])
        exact = jp.tree.by_name(jp.curvature.diagonal(tuned_one, jp.losses.distillation(), {"image": BATCH["image"]}))
        known = {"image": BATCH["image"], "outputs": outputs(tuned_one, BATCH["image"]), **exact}
        np.savez(f"{saved}.npz", **jax.tree.map(np.asarray, known))
        return net, found, dense, last, tuned_one, losses, saved

    return done


@pytest.mark.parametrize("name", twelve.NAMES)
def test_discover_serves_a_search_of_any_network(name, chain):
    net, found, dense, last, small, losses, _ = chain(name)
    assert len(found) > 1
    assert found.proof == {one.name: "" for one in (*found, *found.layers)}
    assert last.macs <= 0.5 * dense.macs
    assert last.parameters == jp.tree.size(small.params)
    switched = gated(net, found, last.gates)
    np.testing.assert_allclose(*(outputs(one, BATCH["image"]) for one in (last.network, switched)), **CLOSE)
    switched, want = tuned(switched)
    np.testing.assert_allclose(losses, want, **CLOSE)
    assert losses[-1] < losses[0]
    for got, whole in ((small.params, switched.params), (small.state, switched.state["network"])):
        jax.tree.map(partial(np.testing.assert_allclose, **CLOSE), got, sliced(whole, found, last.gates))


def test_load_program_serves_a_process_without_the_code_of_the_owner(chain, tmp_path):
    """Outputs, and the exact diagonal of the Hessian, of all twelve."""
    folders = {name: str(chain(name)[-1]) for name in twelve.NAMES}
    (tmp_path / "jaxprune").symlink_to(ROOT / "jaxprune")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": haste.FLAGS}
    words = [sys.executable, "-c", STRANGER, json.dumps(folders)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(done.stdout)  # how far apart they are
    assert not told["strange"]
    assert list(told["apart"]) == twelve.NAMES
    assert max(max(pair) for pair in told["apart"].values()) <= 1e-6
