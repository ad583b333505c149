"""The study of methods: what every study promises, options that are chosen, and predictions against derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from experiments import methods
from experiments.methods import arms, measures
from experiments.methods.arms import ARMS, Arm, Options, Scene
from experiments.shared.methods import Method
from tests.experiments import studies

SMOKE: dict[str, Any] = {
    "data": "tests.experiments.small:few_digits",
    "pretrain_steps": 20,
    "finetune_steps": 2,
    "finetune_rates": (2e-3,),
    "width": 2,
    "examples": 24,
    "rounds": 2,
    "methods": ("magnitude", "logits/greedy+rounds"),
    "sparsities": (0.5,),
    "seeds": (0,),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return studies.make("methods", SMOKE, tmp_path_factory.mktemp("methods"))


def test_methods_keeps_what_every_study_promises(made, monkeypatch):
    studies.check_promises(made, monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("magnitud",)}, "methods: unknown value 'magnitud'. Did you mean 'magnitude'"),
        ({"methods": ()}, r"methods: expected one or more, each of them once, but got \(\)"),
        ({"sparsities": (1.0,)}, "sparsities: expected a fraction in"),
        ({"examples": 4}, "examples"),
        ({"examples": 10**6}, "examples: expected at most"),
        ({"rounds": 0}, "rounds"),
        ({"finetune_rates": (0.0,)}, "finetune_rates"),
        ({"data": "digit"}, "data: unknown value 'digit'. Did you mean 'digits'"),
    ],
)
def test_methods_finds_a_bad_value_before_anything_expensive(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(jp.train, "fit", None)
    with pytest.raises(ValueError, match=message):
        methods.STUDY.open(methods.Settings(**SMOKE | change, out=tmp_path))


def apply(params: Any, state: Any, images: Any) -> Any:
    return jax.nn.relu(images @ params["stem"]["kernel"]) @ params["last"]["kernel"]


@pytest.fixture
def scene():
    draw = np.random.default_rng(0)
    params = {
        name: {"kernel": jnp.asarray(draw.normal(size=shape))}
        for name, shape in {"stem": (5, 6), "last": (6, 5)}.items()
    }
    network = jp.Network(apply, params)
    batch = {"image": jnp.asarray(draw.normal(size=(40, 5))), "label": jnp.asarray(draw.integers(5, size=40))}
    parts = [{name: one[rows] for name, one in batch.items()} for rows in (slice(0, 30), slice(30, 40))]
    prunable = jax.tree.map(lambda _: True, params)
    settings = methods.Settings(rounds=2)
    return Scene(settings, 0, network, batch, *parts, batch, batch, prunable, prunable)


@pytest.mark.parametrize("word", ARMS)
def test_prune_reaches_the_same_sparsity_by_every_method(scene, word):
    """Also where it leaves the first kernel alone."""
    mask, params, options, gradients = arms.prune(scene, ARMS[word], 0.3)
    assert jp.masks.sparsity(mask, scene.prunable) == pytest.approx(0.3, abs=0.01)
    for kept, leaf in zip(jax.tree.leaves(mask), jax.tree.leaves(params), strict=True):
        assert not np.asarray(leaf)[~np.asarray(kept)].any()
        assert np.isfinite(np.asarray(leaf)).all()
    if options is not None and not options.first:
        assert np.asarray(mask["stem"]["kernel"]).all()
    assert (gradients or 0) >= 0


def test_prune_chooses_the_option_that_is_nearest_on_images_held_out(scene):
    """Of six, one that keeps the network as it is; of two that do, the first."""
    seen = []

    def make(scene: Any, batch: Any, prunable: Any, sparsity: float, options: Options) -> Any:
        seen.append((len(batch["image"]), options.damping))
        factor = 1.0 if options.damping == arms.DAMPINGS[1] else 0.5
        params = jax.tree.map(lambda leaf: factor * leaf, scene.dense.params)
        return jp.pruning.Round(jp.masks.ones(params), params)

    arm = Arm(Method(objective="none", score="x", update="none"), "", make, damped=True, allocations=("global",))
    found = arms.prune(scene, arm, 0.5)
    assert found.options == Options("global", True, arms.DAMPINGS[1])
    assert seen == [*(2 * [(30, damping) for damping in arms.DAMPINGS]), (40, arms.DAMPINGS[1])]


@pytest.mark.parametrize("word", [word for word in ARMS if not word.endswith(("+rounds", "+adam"))])
def test_options_leave_no_baseline_weak(word):
    """Uniform and global, with and without the first kernel, and damping wherever a matrix is solved with."""
    tried = list(ARMS[word].options())
    assert {"uniform", "global"} <= {one.allocation for one in tried}
    assert {one.first for one in tried} == {True, False}
    solves = ARMS[word].method.update != "none" or any(name in word for name in ("greedy", "obs"))
    assert len({one.damping for one in tried}) == (3 if solves else 1)


def test_increase_predicts_by_definition(scene):
    params = jax.tree.map(lambda leaf: leaf * 1.01, scene.dense.params)
    found = measures.increase(scene, params)
    image, dense = scene.images["image"], scene.dense
    z = dense(image)

    def divergence(outputs: Any) -> Any:
        p, q = jax.nn.log_softmax(z), jax.nn.log_softmax(outputs)
        return jnp.mean(jnp.sum(jnp.exp(p) * (p - q), axis=1))

    step = jax.tree.map(jnp.subtract, params, dense.params)

    def along(t: Any) -> Any:
        return divergence(apply(jax.tree.map(lambda w, d: w + t * d, dense.params, step), {}, image))

    moved = jax.jvp(lambda p: apply(p, {}, image), (dense.params,), (step,))[1]
    assert found["true"] == pytest.approx(float(along(1.0)), rel=1e-9)
    assert found["quadratic"] == pytest.approx(float(jax.hessian(along)(0.0)) / 2, rel=1e-8)
    assert found["linearised"] == pytest.approx(float(divergence(z + moved)), rel=1e-9)
    assert found["distance"] == pytest.approx(float(jnp.mean(jnp.sum((apply(params, {}, image) - z) ** 2, 1))))


def test_with_of_options_without_the_first_kernel_prunes_as_many_weights(scene):
    arm = ARMS["magnitude"]
    whole = arms._with(scene, arm, scene.images, 0.3, Options("global", True, 1e-2))
    rest = arms._with(scene, arm, scene.images, 0.3, Options("global", False, 1e-2))
    counts = [sum(int((~np.asarray(leaf)).sum()) for leaf in jax.tree.leaves(one.mask)) for one in (whole, rest)]
    assert counts[0] == counts[1]
