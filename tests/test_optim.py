"""The masked optimizer: every transformation of optax trains the pruned network and nothing else."""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

# Two axes, so that adafactor factors and muon finds a matrix; a leaf of ones shows what mixes leaves.
START = {"w": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), "b": np.ones(3, np.float32)}
MASK = {"w": np.random.default_rng(1).random((4, 3)) < 0.5, "b": np.array([True, False, True])}
AIM = {"w": np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32), "b": np.zeros(3, np.float32)}
HIDDEN = {name: np.where(MASK[name], leaf, np.float32(0)) for name, leaf in START.items()}
STEPS = 3

Make = Callable[[Callable[..., Any]], Any]


def none(factory: Callable[..., Any]) -> Any:
    return factory()


def rate(factory: Callable[..., Any]) -> Any:
    return factory(0.1)


def around(factory: Callable[..., Any]) -> Any:
    return factory(optax.adamw(0.1))


def labelled(factory: Callable[..., Any]) -> Any:
    return factory({"first": optax.lamb(0.1), "second": optax.sgd(0.1)}, {"w": "first", "b": "second"})


def injected(factory: Callable[..., Any]) -> Any:
    return factory(optax.lamb)(learning_rate=0.1)


def norm_of(updates: Any, *_: Any, **__: Any) -> Any:
    return optax.tree.norm(updates)


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), params)


WITHOUT_ARGUMENTS = """
adadelta centralize identity keep_params_nonnegative lbfgs normalize_by_update_norm polyak_sgd scale_by_adadelta
scale_by_adam scale_by_adamax scale_by_adan scale_by_amsgrad scale_by_belief scale_by_distance_over_gradients
scale_by_lbfgs scale_by_lion scale_by_novograd scale_by_optimistic_gradient scale_by_param_block_norm
scale_by_param_block_rms scale_by_polyak scale_by_radam scale_by_rms scale_by_rss scale_by_sign scale_by_sm3
scale_by_stddev scale_by_trust_ratio scale_by_yogi set_to_zero zero_nans cocob dadapt_adamw dog dowg
hutchinson_estimator_diag_hessian momo momo_adam normalize prodigy reduce_on_plateau scale_by_acprop
scale_by_ademamix scale_by_adopt scale_by_cocob scale_by_simplified_ademamix schedule_free_adamw schedule_free_sgd
add_decayed_weights apply_every
"""
BY_A_RATE = """
adabelief adagrad adam adamax adamaxw adamw adan adaptive_grad_clip amsgrad clip clip_by_block_rms
clip_by_global_norm ema fromage lamb lars lion nadam nadamw novograd optimistic_adam optimistic_adam_v2
optimistic_gradient_descent radam rmsprop rprop scale scale_by_learning_rate scale_by_madgrad scale_by_rprop sgd
sign_sgd signum sm3 trace yogi acprop ademamix adopt madgrad muon simplified_ademamix sophia
"""
AROUND_ANOTHER = """
chain flatten with_extra_args_support mechanize split_real_and_imaginary
"""
# How to make one of every factory that returns a transformation, by name: all of them train from dense weights as from
# masked ones.  What only a newer or an older optax has may stand here too.
SERVED: dict[str, Make] = {
    **dict.fromkeys(WITHOUT_ARGUMENTS.split(), none),
    **dict.fromkeys(BY_A_RATE.split(), rate),
    **dict.fromkeys(AROUND_ANOTHER.split(), around),
    **dict.fromkeys(["partition", "multi_transform"], labelled),
    **dict.fromkeys(["inject_hyperparams", "inject_stateful_hyperparams"], injected),
    "adafactor": lambda factory: factory(0.1, min_dim_size_to_factor=2),
    "add_noise": lambda factory: factory(0.1, 0.55, key=0),
    "apply_if_finite": lambda factory: factory(optax.adamw(0.1), 2),
    "conditionally_mask": lambda factory: factory(optax.lamb(0.1), lambda step: step != 1),
    "conditionally_transform": lambda factory: factory(optax.lamb(0.1), lambda step: step != 1),
    "differentially_private_aggregate": lambda factory: factory(1.0, 0.1, key=0),
    "dpsgd": lambda factory: factory(0.1, 1.0, 0.1, 0),
    "freeze": lambda factory: factory({"w": False, "b": True}),
    "galore": lambda factory: factory(0.1, rank=2),
    "masked": lambda factory: factory(optax.lamb(0.1), {"w": True, "b": False}),
    "monitor": lambda factory: factory({"norm": norm_of}),
    "named_chain": lambda factory: factory(("only", optax.adamw(0.1))),
    "noisy_sgd": lambda factory: factory(0.1, key=0),
    "sam": lambda factory: factory(optax.lamb(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.05))),
    "scale_by_backtracking_linesearch": lambda factory: factory(5),
    "scale_by_factored_rms": lambda factory: factory(min_dim_size_to_factor=2),
    "scale_by_galore": lambda factory: factory(rank=2),
    "scale_by_muon": lambda factory: optax.masked(factory(weight_dimension_numbers=matrices), {"w": True, "b": False}),
    "scale_by_schedule": lambda factory: factory(optax.linear_schedule(-0.1, -0.2, 3)),
    "scale_by_zoom_linesearch": lambda factory: factory(5),
    # What it wraps writes everywhere, and the evaluated weights must not see it.
    "schedule_free": lambda factory: factory(optax.chain(optax.contrib.muon(0.1), optax.centralize()), 0.1),
    "selective_transform": lambda factory: factory(optax.lamb(0.1), freeze_mask={"w": False, "b": True}),
    "snapshot": lambda factory: factory("norm", norm_of),
    "stateless": lambda factory: factory(
        lambda updates, params: jax.tree.map(lambda u, w: -u - 0.1 * w, updates, params)
    ),
    "stateless_with_tree_map": lambda factory: factory(lambda update, weight: -update - 0.1 * weight),
}
REFUSED: dict[str, tuple[Make, str]] = {
    "measure_with_ema": (lambda factory: factory(norm_of, 0.9), "tx: its updates: expected the structure of params"),
    "lookahead": (lambda factory: factory(optax.sgd(0.1), 2, 0.5), "optax.lookahead has two, fast and slow ones"),
}
# Of these the gradients are of single examples.
PER_EXAMPLE = ("differentially_private_aggregate", "dpsgd")


def factories() -> dict[str, Callable[..., Any]]:
    """All public functions of ``optax`` and ``optax.contrib`` that return a transformation, or make what does."""
    found = {}
    for module in (optax, optax.contrib):
        for name, value in vars(module).items():
            if not name.startswith("_") and callable(value) and not inspect.isclass(value) and _makes(value):
                found[name] = value
    return found


def _makes(function: Any) -> bool:
    function = getattr(function, "func", function)  # of a partial
    annotation = getattr(function, "__annotations__", {}).get("return")
    if annotation is None:
        return inspect.isfunction(function) and "GradientTransformation" in inspect.getsource(function)
    return "GradientTransformation" in str(annotation)


def made(name: str, make: Make) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # dpsgd has no other way to take its key
        return make(factories()[name])


def objective(point: Any) -> Any:
    """A loss whose gradient lives everywhere, also where a weight is zero."""
    distances = jax.tree.map(lambda leaf, aim: jnp.sum((leaf - aim) ** 2 + 0.3 * leaf), point, AIM)
    return 0.5 * jax.tree.reduce(jnp.add, distances)


@functools.cache
def stepper(update: Any, per_example: bool) -> Any:
    def step(params: Any, state: Any, number: Any) -> tuple[Any, Any]:
        value, gradient = jax.value_and_grad(objective)(jp.masks.apply(MASK, params))
        # Where weights are pruned the gradient is another one at dense weights than at masked ones.
        gradient = jax.tree.map(lambda keep, g, w: jnp.where(keep, g, g + w + number), MASK, gradient, params)
        extra = jp.optim.arguments(objective, value, gradient)
        if per_example:
            gradient = jax.tree.map(lambda leaf: jnp.stack([leaf, -2 * leaf]), gradient)
        updates, state = jp.optim.call(update, gradient, state, params, extra)
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


def trained(name: str, tx: Any, start: Any) -> list[Any]:
    """The weights after every step, and at the end those to evaluate where they are others."""
    params, state, seen = start, tx.init(start), []
    for number in range(STEPS):
        params, state = stepper(tx.update, name in PER_EXAMPLE)(params, state, 1.0 + number)
        seen.append(params)
    if isinstance(state.inner, optax.contrib.ScheduleFreeState):
        seen.append(optax.contrib.schedule_free_eval_params(state.inner, params))
    return seen


def test_with_mask_knows_every_transformation_of_optax():
    listed = {*SERVED, *REFUSED}
    new = sorted(set(factories()) - listed)
    assert not new, f"say in SERVED or REFUSED what with_mask makes of {', '.join(new)}"
    assert len(set(factories()) & listed) > 100  # so that the search for them has not gone blind


@pytest.mark.parametrize("name", sorted({*SERVED} & {*factories()}))
def test_with_mask_trains_from_dense_weights_as_from_masked_ones(name):
    tx = jp.optim.with_mask(made(name, SERVED[name]), MASK)
    dense, masked = (trained(name, tx, start) for start in (START, HIDDEN))
    for one, other in zip(dense, masked, strict=True):
        for key, keep in MASK.items():
            np.testing.assert_array_equal(one[key], other[key])
            np.testing.assert_array_equal(np.asarray(one[key])[~keep], 0)
    assert np.isfinite(dense[-1]["w"]).all()
    assert np.any(np.asarray(dense[-1]["w"]) != HIDDEN["w"]) == (name != "set_to_zero")


@pytest.mark.parametrize("name", sorted({*REFUSED} & {*factories()}))
def test_with_mask_refuses_in_words(name):
    make, reason = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=reason):
        trained(name, jp.optim.with_mask(made(name, make), MASK), START)


def test_with_mask_leaves_no_pruned_weight_alive_in_what_schedule_free_evaluates():
    """r03 of the reports: dense weights, whose copy in the state outlived the mask."""
    tx = jp.optim.with_mask(optax.contrib.schedule_free_sgd(0.1), MASK)
    state = tx.init(START)
    for key, keep in MASK.items():
        np.testing.assert_array_equal(np.asarray(state.inner.z[key]), np.where(keep, START[key], 0))


def test_with_mask_is_mapped_by_optax_as_what_it_holds():
    tx = optax.chain(optax.clip(1.0), jp.optim.with_mask(optax.adam(0.1), MASK))
    state = tx.init(START)
    mapped = optax.tree_utils.tree_map_params(
        tx, lambda leaf, name: name, state, {"w": "W", "b": "B"}, transform_non_params=lambda leaf: type(leaf)
    )
    [inner] = [part for part in mapped if isinstance(part, jp.optim.MaskedState)]
    adam = inner.inner[0]
    assert adam.mu == adam.nu == {"w": "W", "b": "B"}
    assert all(issubclass(leaf, jax.Array) for leaf in (*inner.mask.values(), adam.count))
    # No parameters at all are not what optax puts in their place.
    with pytest.raises(ValueError, match="mask: expected the structure of params"):
        tx.init({})


def test_with_mask_hides_what_is_pruned_from_functions_and_trees_that_are_passed_on():
    seen = {}

    def update(updates, state, params, *, grad, value_fn, value):
        seen.update(updates=updates, params=params, grad=grad, slope=jax.grad(value_fn)(START), value=value)
        return updates, state

    tx = jp.optim.with_mask(optax.GradientTransformationExtraArgs(lambda params: (), update), MASK)
    ones = jax.tree.map(np.ones_like, START)
    total = {"value_fn": lambda point: sum(jnp.sum(leaf) for leaf in point.values()), "value": np.float32(3)}
    tx.update(ones, tx.init(START), START, grad=ones, unasked=1, **total)
    assert seen.pop("value") == 3
    for name, tree in seen.items():
        for key, keep in MASK.items():
            np.testing.assert_array_equal(tree[key], HIDDEN[key] if name == "params" else keep.astype(np.float32))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_with_mask_refuses_pruned_weights_that_no_update_makes_zero(value):
    params = {**START, "b": np.where(MASK["b"], START["b"], value)}
    tx = jp.optim.with_mask(optax.sgd(0.1), MASK)
    with pytest.raises(ValueError, match=r"params: .*where the mask prunes, but 1 of .* Begin with jp\.masks\.apply"):
        tx.init(params)
    tx.init(jp.masks.apply(MASK, params))
    # What is kept may be infinite: the mask has no say in it.
    tx.init({**START, "b": np.where(MASK["b"], value, START["b"])})
