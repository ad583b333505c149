"""Gates pruned jointly: a ViT of the digits, by the joint Hessian and by diagonal criteria, re-adjusted alike."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark_networks import SEED
from benchmark_rows import Row, timed

import jaxprune as jp
from jaxprune.structured import criteria, effects
from jaxprune.structured.gates import outputs

SHARES = (0.6, 0.7, 0.8)
TARGETS = {"KL": jp.losses.distillation("kl"), "squared": jp.losses.distillation("squared")}
# Of training; what is left is for scoring and for the test.
PARTS = ("pretraining", "head", "finetuning")
STEPS, RATE = 5000, 4e-3


def vit(rounds: int) -> Iterator[Row]:
    """Prunes heads and hidden units of a ViT; accuracy and KL to dense on the test images."""
    del rounds
    data = _digits()
    seconds, network = timed(lambda: _trained(data))
    test, dense = data["test"], _evaluated(network, data["test"]["image"])
    yield Row("ViT on the digits: test accuracy", (_accuracy(dense, test),), "", at_least=0.95, note=f"{seconds:.0f} s")
    groups = tuple(group for group in network.module.groups() if not group.is_layer)
    scoring = [data["scoring"]]
    hessians = {}
    for name, loss in TARGETS.items():
        seconds, hessians[name] = timed(
            lambda loss=loss: jp.structured.gate_hessian(network, groups, scoring, loss=loss)
        )
        yield Row(f"Hessian by {len(hessians[name])} gates, {name}, compilation included", (seconds,))
    ratings = _ratings(network, groups, scoring, hessians)
    scaled = jp.structured.factored(network, groups, {})
    for share in SHARES:
        for name in TARGETS:
            yield from _compared(
                name, share, groups, hessians[name], ratings, (network, scaled), (test, dense), scoring
            )


def _compared(
    name: str,
    share: float,
    groups: Any,
    hessian: np.ndarray,
    ratings: Mapping[str, Any],
    networks: tuple[jp.Network, jp.Network],
    wanted: tuple[Any, np.ndarray],
    scoring: Any,
) -> Iterator[Row]:
    """The joint order, and every criterion under every allocation, with kept gates re-adjusted by the same Hessian."""
    network, scaled = networks
    test, dense = wanted

    def measured(factors: Any) -> tuple[float, float]:
        given = {name: jnp.asarray(values, jnp.float32) for name, values in factors.items()}
        found = _evaluated(scaled.replace(params=given), test["image"])
        return _divergence(dense, found), _accuracy(found, test)

    seconds, joint = timed(
        lambda: jp.structured.prune_jointly(
            network, groups, scoring, share, loss=TARGETS[name], per="units", hessian=hessian
        )
    )
    kl, accuracy = measured(joint.factors)
    count, found = len(joint.order), {}
    for criterion, rated in ratings.items():
        for allocation in ("global", "normalised", "uniform"):
            gates = jp.structured.drop_units(
                groups, jp.structured.ones(groups), rated, _units, count, allocation=allocation
            )
            assert gates is not None
            plain, made_up = measured(gates), measured(jp.structured.readjusted(groups, hessian, gates))
            found[f"{criterion}, {allocation}"] = (made_up, plain)
    best = min(found, key=lambda one: found[one][0][0])
    alone = min(found, key=lambda one: found[one][1][0])
    told = f"{name}, {share:.0%} off"
    yield Row(f"{told}: KL to dense, joint", (kl,), "", note=f"accuracy {accuracy:.3f}; {seconds:.1f} s")
    (other, its), _ = found[best]
    yield Row(f"{told}: KL to dense, best diagonal re-adjusted", (other,), "", note=f"accuracy {its:.3f}; {best}")
    _, (raw, its) = found[alone]
    yield Row(f"{told}: KL to dense, best diagonal as it is", (raw,), "", note=f"accuracy {its:.3f}; {alone}")
    bound = 1 / 3 if share == 0.8 else None
    yield Row(f"{told}: joint over the best diagonal re-adjusted", (kl / other,), "times", at_most=bound)


def _digits() -> dict[str, Any]:
    source = jp.data.digits()
    parts = jp.data.split(source.labels, source.name, SEED)
    found = {name: jp.data.select(source, part) for name, part in parts.items()}
    training = {key: np.concatenate([found[name][key] for name in PARTS]) for key in ("image", "label")}
    return {"training": training, "scoring": found["scoring"], "test": found["test"]}


def _trained(data: Mapping[str, Any]) -> jp.Network:
    module = jp.models.vit(patch=2, image=8, classes=10, width=32, heads=4, depth=3)
    variables = jax.jit(module.init)(jax.random.key(SEED), data["training"]["image"][:1])
    start = jp.Network.from_linen(module, variables, train={"train": True})
    tx = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, RATE, STEPS // 10, STEPS), weight_decay=0.01)
    options: dict[str, Any] = {"steps": STEPS, "batch_size": 64, "seed": SEED, "augment": _moved}
    return jp.train.fit(start, jp.losses.cross_entropy, tx, data["training"], **options)


def _moved(batch: Any, key: Any) -> Any:
    """Moves every image by up to a pixel."""
    padded = jnp.pad(batch["image"], ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = jax.random.randint(key, (len(padded), 2), 0, 3)
    cut = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (8, 8, 1)))
    return {**batch, "image": cut(padded, places)}


def _ratings(network: jp.Network, groups: Any, scoring: Any, hessians: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Ratings of every unit by what each says of it alone, larger = keep."""
    alive, loss = jp.structured.ones(groups), jp.losses.cross_entropy
    scaled = jp.structured.factored(network, groups, alive)
    edges = np.cumsum([0, *(group.size for group in groups)])

    def named(values: np.ndarray) -> dict[str, np.ndarray]:
        return {group.name: values[low:high] for group, low, high in zip(groups, edges, edges[1:], strict=False)}

    average = jp.curvature.average
    fisher = average(lambda batch: jp.curvature.diagonal(scaled, loss, batch, "empirical_fisher"), scoring)
    slope = average(lambda batch: jp.curvature.gradient(scaled, loss, batch), scoring)
    rate = {"magnitude": criteria.l2(), "activation": criteria.activation()}
    rate |= {"random": criteria.random(jax.random.key(SEED)), "labelled second order": effects.second_order(loss)}
    return {
        **{f"{name} diagonal": named(np.diagonal(hessian)) for name, hessian in hessians.items()},
        "Fisher diagonal": {name: np.asarray(values) for name, values in fisher.items()},
        "Taylor": {name: np.abs(np.asarray(values)) for name, values in slope.items()},
        **{name: criterion(network, groups, alive, scoring) for name, criterion in rate.items()},
    }


def _units(gates: Mapping[str, Any]) -> float:
    return float(sum(np.sum(values) for values in gates.values()))


def _evaluated(network: jp.Network, images: Any) -> np.ndarray:
    return np.asarray(outputs(network, images), np.float64)


def _accuracy(found: np.ndarray, test: Mapping[str, Any]) -> float:
    return float(np.mean(found.argmax(-1) == test["label"]))


def _divergence(dense: np.ndarray, found: np.ndarray) -> float:
    """The mean of KL(softmax dense || softmax found), in nats."""
    p, q = (values - values.max(-1, keepdims=True) for values in (dense, found))
    p, q = (values - np.log(np.exp(values).sum(-1, keepdims=True)) for values in (p, q))
    kl = float(np.mean(np.sum(np.exp(p) * (p - q), -1)))
    return kl if math.isfinite(kl) else math.inf
