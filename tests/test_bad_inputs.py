"""Bad input is refused in our words at every public function that takes a network and a batch.

The functions are found by their signatures: a new one fails until a row says how it is called.  Makers of scores are
such functions too.
"""

import inspect
import pkgutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.evaluate import attacks, transfer
from jaxprune.groups import Group, Member
from jaxprune.structured import Criterion

pytestmark = pytest.mark.usefixtures("unchecked")

LOSS = jp.losses.cross_entropy


def apply(params, state, images):
    hidden = checkpoint_name(jnp.maximum(images.reshape(len(images), -1) @ params["w1"], 0), "hidden")
    return checkpoint_name(hidden @ params["w2"], "features")


def train_apply(params, state, images, rngs):
    return apply(params, state, images), {"mean": 0.9 * state["mean"] + 0.1 * images.mean()}


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


PARAMS = {"w1": jnp.asarray(_normal(0, 4, 3)), "w2": jnp.asarray(_normal(1, 3, 3))}
NETWORK = jp.Network(apply, PARAMS, {"mean": jnp.zeros(1)}, train_apply)
BATCH = {"image": np.abs(_normal(2, 4, 2, 2, 1)) / 9, "label": np.array([0, 1, 2, 0]), "weight": np.ones(4)}
HELD_OUT = [BATCH]
KEY = jax.random.key(0)


def mask(net):
    return jax.tree.map(lambda leaf: jnp.arange(np.size(leaf)).reshape(np.shape(leaf)) > 0, net.params)


def wanted(net):
    return jax.tree.map(lambda leaf: np.ndim(leaf) > 1, net.params)


def prune(function, *more):
    return lambda net, data: list(
        function(net, jp.scores.snip(LOSS), data, {name: name == "w1" for name in net.params}, (0.5,), *more)
    )


# function -> how it is called with a network and a list of one batch.
FUNCTIONS = {
    "curvature.gradient": lambda net, data: jp.curvature.gradient(net, LOSS, *data),
    "curvature.hvp": lambda net, data: jp.curvature.hvp(net, LOSS, *data, net.params),
    "curvature.ggnvp": lambda net, data: jp.curvature.ggnvp(net, LOSS, *data, net.params),
    "curvature.diagonal": lambda net, data: jp.curvature.diagonal(net, LOSS, *data),
    "curvature.block_product": lambda net, data: jp.curvature.block_product(net, LOSS, *data, net.params),
    "curvature.block": lambda net, data: jp.curvature.block(net, LOSS, *data, "w1"),
    "curvature.block_factors": lambda net, data: jp.curvature.block_factors(net, LOSS, *data, "w1"),
    "curvature.block_members": lambda net, data: jp.curvature.block_members(net, *data, "w1", "unit"),
    "curvature.joint_block": lambda net, data: jp.curvature.joint_block(net, LOSS, *data),
    "curvature.estimate": lambda net, data: jp.curvature.estimate(net, LOSS, data),
    "curvature.sweep": lambda net, data: jp.curvature.sweep(net, LOSS, data),
    "curvature.plan": lambda net, data: jp.curvature.plan(net, LOSS, *data, "diagonal"),
    "data.with_teacher": lambda net, data: jp.data.with_teacher(data, net),
    "evaluate.attacks.attacked": lambda net, data: list(
        attacks.attacked(net, LOSS, data, lambda *given: attacks.fgsm(*given, epsilon=0.1))
    ),
    "evaluate.attacks.fgsm": lambda net, data: attacks.fgsm(net, LOSS, *data, epsilon=0.1),
    "evaluate.attacks.pgd": lambda net, data: attacks.pgd(
        net, LOSS, *data, epsilon=0.1, step_size=0.1, steps=1, key=KEY
    ),
    "evaluate.transfer.correct": transfer.correct,
    "evaluate.transfer.features": transfer.features,
    "evaluate.transfer.predictions": transfer.predictions,
    "evaluate.transfer.mean_loss": lambda net, data: transfer.mean_loss(LOSS, data)(net),
    "evaluate.transfer.accuracy": lambda net, data: transfer.accuracy(data)(net),
    "geometry.operator": lambda net, data: jp.geometry.operator(net, LOSS, data)(jnp.ones(jp.tree.size(net.params))),
    "geometry.barrier": lambda net, data: jp.geometry.barrier(net, LOSS, data, net, key=KEY, points=2),
    "geometry.pruning_path": lambda net, data: jp.geometry.pruning_path(net, LOSS, data, mask(net), points=2),
    "geometry.line": lambda net, data: jp.geometry.line(net, LOSS, data, net.params, points=1),
    "geometry.plane": lambda net, data: jp.geometry.plane(net, LOSS, data, net.params, net.params, points=1),
    "pruning.rounds": prune(jp.pruning.rounds),
    "pruning.prune": prune(jp.pruning.prune),
    "pruning.prune_and_update": prune(jp.pruning.prune_and_update, jp.scores.surgeon_update(LOSS, matrix="ggn")),
    "pruning.surgeon_rounds": prune(partial(jp.pruning.surgeon_rounds, objective=LOSS, held_out=HELD_OUT)),
    "pruning.adam_rounds": prune(partial(jp.pruning.adam_rounds, objective=LOSS, held_out=HELD_OUT, gradients=[12.0])),
    "pruning.ladder": prune(jp.pruning.ladder, lambda net, mask, rung: net),
    "train.fit": lambda net, data: jp.train.fit(net, LOSS, optax.sgd(0.1), *data, steps=1, batch_size=4, seed=0),
    "train.recalibrate": lambda net, data: jp.train.recalibrate(net, data, KEY),
    "scores.magnitude": lambda net, data: jp.scores.magnitude()(net, data),
    "scores.random": lambda net, data: jp.scores.random(KEY)(net, data),
    "scores.synflow": lambda net, data: jp.scores.synflow()(net, data),
    "scores.snip": lambda net, data: jp.scores.snip(LOSS)(net, data),
    "scores.grasp": lambda net, data: jp.scores.grasp(LOSS)(net, data),
    "scores.fisher": lambda net, data: jp.scores.fisher(LOSS)(net, data),
    "scores.diagonal_hessian": lambda net, data: jp.scores.diagonal_hessian(LOSS)(net, data),
    "scores.block_hessian": lambda net, data: jp.scores.block_hessian(LOSS, form="obs", matrix="ggn")(net, data),
    "scores.price_flat": lambda net, data: jp.scores.price_flat(jp.scores.fisher(LOSS))(net, data),
    "scores.surgeon_update": lambda net, data: jp.scores.surgeon_update(LOSS, matrix="ggn")(net, data, mask(net)),
}
GROUPS = (Group("units", 3, (Member("w1", 1), Member("w2", 0, reads=True)), ("hidden",)),)
CRITERIA = {
    **{name: getattr(jp.structured.criteria, name)() for name in ("l1", "l2", "activation")},
    **{name: getattr(jp.structured.effects, name)() for name in ("kl", "cka")},
    **{name: getattr(jp.structured.effects, name)(LOSS) for name in ("second_order", "kernel_block")},
}
FUNCTIONS |= {
    f"criteria.{name}": lambda net, data, rate=rate: rate(net, GROUPS, jp.structured.ones(GROUPS), data)
    for name, rate in CRITERIA.items()
}
FUNCTIONS |= {
    "structured.gate_hessian": lambda net, data: jp.structured.gate_hessian(net, GROUPS, data, loss=LOSS),
    "structured.prune_jointly": lambda net, data: jp.structured.prune_jointly(net, GROUPS, data, 0.3),
}
# What is under a function that is listed, or works on what was checked.
INSIDE = {"train.step", "geometry.Operator"}
WITHOUT_DATA = {"scores.magnitude", "scores.random", "criteria.l1", "criteria.l2"}
ONLY_SHAPES = {"curvature.block_members", "scores.synflow"}
# The loss is not read: labels may be anything.
WITHOUT_LOSS = (
    WITHOUT_DATA
    | ONLY_SHAPES
    | {
        *(
            "train.recalibrate",
            "data.with_teacher",
            "evaluate.transfer.features",
            "evaluate.transfer.predictions",
            "criteria.activation",
            "criteria.kl",
            "criteria.cka",
            "structured.prune_jointly",
        )
    }
)


def is_public(station, name):
    return not name.startswith("_") and not inspect.ismodule(getattr(station, name))


def public_functions():
    """What a user reaches as ``jp.station.name``, or ``jp.evaluate.module.name``."""
    for info in pkgutil.iter_modules(jp.__path__):
        station = getattr(jp, info.name, None)
        if station is None:  # behind Network.from_nnx and from_equinox, or for the studies
            continue
        parts = [(info.name, station)]
        parts += [(f"{info.name}.{name}", getattr(station, name)) for name in getattr(station, "__all__", [])]
        for path, module in parts:
            if not inspect.ismodule(module):
                continue
            for name in getattr(module, "__all__", vars(module)):
                value = getattr(module, name)
                if is_public(module, name) and getattr(value, "__module__", "").startswith(module.__name__):
                    yield f"{path}.{name}", value


def takes_data(value):
    if not callable(value) or (inspect.isclass(value) and issubclass(value, Exception)):
        return False
    names = set(inspect.signature(value).parameters)
    return "network" in names and bool(names & {"batch", "batches", "data"})


def test_inputs_are_all_listed():
    found = {name for name, value in public_functions() if takes_data(value)}
    assert found <= set(FUNCTIONS) | INSIDE, found - set(FUNCTIONS) - INSIDE
    # The makers of scores take a network and batches in the function that they return.
    assert {f"scores.{name}" for name in jp.scores.__all__} <= set(FUNCTIONS)
    more = {f"scores.{name}" for name in jp.scores.__all__} | {f"criteria.{name}" for name in CRITERIA}
    assert set(FUNCTIONS) - found <= more | {"evaluate.transfer.mean_loss", "evaluate.transfer.accuracy"}
    makers = [*vars(jp.structured.criteria).items(), *vars(jp.structured.effects).items()]
    returned = {name for name, value in makers if getattr(value, "__annotations__", {}).get("return") is Criterion}
    # The scales of BatchNorm, which this network has not, and chance.
    assert {name for name in returned if not name.startswith("_")} == set(CRITERIA) | {"batchnorm_scale", "random"}


def batch(**changes):
    return {**BATCH, **changes}


def holed(values):
    values = np.array(values, float)
    values.flat[1] = np.nan
    return values


# What is wrong, and the words for it.
BATCHES = {
    "no image": ({"label": BATCH["label"]}, "expected the keys 'image'"),
    "no label": ({"image": BATCH["image"]}, "expected the keys 'image', 'label'"),
    "a number": (batch(epoch=3), "one array with an axis of the examples first, but 'epoch' is a int"),
    "a list": (batch(label=[0, 1, 2, 0]), "one array with an axis of the examples first, but 'label' is a list"),
    "images in a dictionary": (batch(image={"a": BATCH["image"]}), "but 'image' is a dict"),
    "three labels": (batch(label=np.array([0, 1, 2])), "as many labels and weights as images"),
    "no example": ({name: entry[:0] for name, entry in BATCH.items()}, "at least one example, but it is empty"),
    "a weight below 0": (batch(weight=np.array([1.0, -1.0, 1.0, 1.0])), "weights of 0 or more"),
    "images that are NaN": (batch(image=holed(BATCH["image"])), r"expected finite numbers, but \['image'\] holds 1"),
    "weights that are NaN": (batch(weight=holed(np.ones(4))), "weight: expected finite numbers"),
}
NAN = {"images that are NaN", "weights that are NaN"}
LABELS = {
    "booleans": (batch(label=np.array([True, False, True, True])), r"labels \[b\] that are integers.*but got bool"),
    "boolean targets": (batch(label=np.ones((4, 3), bool)), r"targets \[b, c\] that are numbers, but got bool"),
    "real labels": (batch(label=np.array([0.0, 1.0, 2.0, 0.5])), r"labels \[b\] that are integers.*but got float64"),
    "targets of other classes": (batch(label=np.ones((4, 2))), r"expected labels of shape \(\d,\).*\(\d, 3\)"),
}
NETWORKS = {
    "a boolean leaf": (NETWORK.replace(params={**PARAMS, "on": jnp.array([True])}), r"real .*\['on'\] is bool"),
    "a complex leaf": (NETWORK.replace(params={**PARAMS, "on": np.ones(1) * 1j}), r"real .*\['on'\] is complex"),
    "a number of Python": (NETWORK.replace(params={**PARAMS, "t": 2.0}), r"expected arrays, but \['t'\] is a float"),
    "weights that are NaN": (
        NETWORK.replace(params={**PARAMS, "w1": jnp.asarray(holed(PARAMS["w1"]))}),
        r"network\.params: expected finite numbers, but \['w1'\] holds 1",
    ),
    "a state that is NaN": (
        NETWORK.replace(state={"mean": jnp.full(1, jnp.nan)}),
        r"network\.state: expected numbers, but \['mean'\] holds 1",
    ),
}
OUTPUTS = {
    "two outputs": (lambda f: (f, f), r"one array of outputs \[b, c\]"),
    "outputs of pixels": (lambda f: f[:, None], r"outputs of shape \[b, c\] with b = \d images, but got \(\d, 1, 3\)"),
    "a number for all": (lambda f: f.sum(), r"but got \(\)"),
}


def changed(change):
    def apply_changed(params, state, images):
        return change(apply(params, state, images))

    return NETWORK.replace(apply=apply_changed, train_apply=None)


def refuses(name, network, data, message):
    with pytest.raises((TypeError, ValueError), match=f"(?s)^.{{0,100}}{message}") as caught:
        FUNCTIONS[name](network, data)
    files = [entry.path for entry in caught.traceback]
    assert "jaxprune" in str(files[-1]), files[-1]


every_function = pytest.mark.parametrize("name", FUNCTIONS)


@every_function
def test_inputs_refuse_bad_batches_in_words(name):
    if name in WITHOUT_DATA:
        return
    for kind, (bad, message) in BATCHES.items():
        without_label = kind == "no label" and name in WITHOUT_LOSS
        if not (kind in NAN and name in ONLY_SHAPES) and not without_label:
            refuses(name, NETWORK, [bad], message)
    if name not in WITHOUT_LOSS | {"evaluate.transfer.correct", "evaluate.transfer.accuracy"}:
        for bad, message in LABELS.values():
            refuses(name, NETWORK, [bad], message)


@every_function
def test_inputs_refuse_bad_networks_in_words(name):
    for kind, (network, message) in NETWORKS.items():
        if not ("NaN" in kind and name in ONLY_SHAPES - {"scores.synflow"}):
            refuses(name, network, [BATCH], message)


@every_function
def test_inputs_refuse_other_outputs_in_words(name):
    if name in WITHOUT_LOSS - {"scores.synflow"}:
        return
    for change, message in OUTPUTS.values():
        refuses(name, changed(change), [BATCH], message)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith("scores.")])
def test_scores_with_data_refuse_to_be_traced(name):
    if name in WITHOUT_DATA | {"scores.synflow"}:
        return
    with pytest.raises(TypeError, match=r"network, batches: expected arrays, but got what jax\.jit .* traces"):
        jax.jit(lambda network, batch: FUNCTIONS[name](network, [batch]))(NETWORK, BATCH)
    with pytest.raises(TypeError, match="batches: expected a list of batches, but got a single one"):
        FUNCTIONS[name](NETWORK, BATCH)


def test_average_of_traced_batches_is_that_of_the_same():
    mean = lambda batches: jp.curvature.average(lambda batch: jp.curvature.gradient(NETWORK, LOSS, batch), batches)  # noqa: E731
    traced, concrete = jax.jit(mean)([BATCH, BATCH]), mean([BATCH, BATCH])
    for one, other in zip(jax.tree.leaves(traced), jax.tree.leaves(concrete), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("name", ["curvature.diagonal", "scores.block_hessian", "scores.snip", "scores.random"])
def test_inputs_take_leaves_of_size_zero(name):
    empty = NETWORK.replace(params={**PARAMS, "empty": jnp.zeros((0, 4))})
    found, expected = FUNCTIONS[name](empty, [BATCH]), FUNCTIONS[name](NETWORK, [BATCH])
    assert found["empty"].shape == (0, 4)
    if name != "scores.random":
        np.testing.assert_array_equal(found["w1"], expected["w1"])


def test_curvature_takes_a_state_that_is_infinite_by_design():
    def attend(params, state, images):
        return jax.nn.softmax((images @ params["w"])[:, None] + state["mask"]).mean(1)

    state = {"mask": jnp.where(jnp.tri(3, dtype=bool), 0, -jnp.inf)}
    network = jp.Network(attend, {"w": PARAMS["w2"]}, state)
    found = jp.curvature.diagonal(network, LOSS, {"image": _normal(5, 4, 3), "label": np.arange(4) % 3})["w"]
    assert jnp.isfinite(found).all()
    assert found.any()


@pytest.mark.parametrize("name", ["snip", "grasp", "fisher", "diagonal_hessian", "block_hessian", "surgeon_update"])
def test_scores_read_an_iterator_of_batches_whole(name):
    """Some read their batches more than once."""
    batches = [batch(image=BATCH["image"] + shift) for shift in (0.0, 1.0)]
    found, expected = (FUNCTIONS[f"scores.{name}"](NETWORK, given) for given in (iter(batches), batches))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_features_of_images_without_labels():
    found = transfer.features(NETWORK, [{"image": BATCH["image"]}])
    np.testing.assert_array_equal(found, transfer.features(NETWORK, [BATCH]))
