"""Gates pruned jointly: a ViT of the digits, by the joint Hessian and by diagonal criteria, re-adjusted alike."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
# A network that has not learnt much, and one that has: much of what the second has is superfluous, and then a criterion
# that sees units one by one does well, too.
STEPS, RATE = (900, 5000), {900: 2e-3, 5000: 4e-3}
ALLOCATIONS = ("global", "normalised", "uniform")
ROUNDS = 8


def vit(rounds: int) -> Iterator[Row]:
    """Prunes heads and hidden units of a ViT; accuracy and KL to dense on the test images."""
    del rounds
    data = _digits()
    for steps in STEPS:
        seconds, network = timed(lambda steps=steps: _trained(data, steps))
        right = _accuracy(_evaluated(network, data["test"]["image"]), data["test"])
        title = f"ViT, {steps} steps: test accuracy"
        yield Row(title, (right,), "", at_least=0.95 if steps == STEPS[-1] else None, note=f"{seconds:.0f} s")
        groups = tuple(group for group in network.module.groups() if not group.is_layer)
        hessians = {}
        for name, loss in TARGETS.items():
            seconds, hessians[name] = timed(
                lambda network=network, groups=groups, loss=loss: jp.structured.gate_hessian(
                    network, groups, [data["scoring"]], loss=loss
                )
            )
            yield Row(f"  Hessian by {len(hessians[name])} gates, {name}, compilation included", (seconds,))
        ratings = _ratings(network, groups, [data["scoring"]], hessians)
        for share in SHARES:
            for name in TARGETS:
                subject = Subject(network, groups, data, name, share, hessians[name])
                yield from _compared(subject, ratings, bounded=share == 0.8)
        for name in TARGETS:
            yield from _in_rounds(Subject(network, groups, data, name, SHARES[-1], hessians[name]))


@dataclass(frozen=True)
class Subject:
    """What is pruned, and how much of it; by the Hessian of one of ``TARGETS``."""

    network: jp.Network
    groups: Any
    data: Mapping[str, Any]
    name: str
    share: float
    hessian: np.ndarray

    def jointly(self, rounds: int = 1) -> jp.structured.JointPruning:
        """Prunes jointly."""
        options: dict[str, Any] = {"loss": TARGETS[self.name], "per": "units", "rounds": rounds}
        batches = [self.data["scoring"]]
        return jp.structured.prune_jointly(
            self.network, self.groups, batches, self.share, hessian=self.hessian, **options
        )

    def measured(self, factors: Any) -> tuple[float, float]:
        """KL to dense, and the accuracy, on the test images."""
        given = {name: jnp.asarray(values, jnp.float32) for name, values in factors.items()}
        scaled = jp.structured.factored(self.network, self.groups, {}).replace(params=given)
        test = self.data["test"]
        dense, found = (_evaluated(network, test["image"]) for network in (self.network, scaled))
        return _divergence(dense, found), _accuracy(found, test)


def _compared(subject: Subject, ratings: Mapping[str, Any], bounded: bool) -> Iterator[Row]:
    """The joint order, and every criterion under every allocation, with kept gates re-adjusted by the same Hessian.

    The best of these is chosen by what it does on the test images: nothing is left weak.
    """
    groups, alive = subject.groups, jp.structured.ones(subject.groups)
    seconds, joint = timed(subject.jointly)
    (kl, accuracy), found = subject.measured(joint.factors), {}
    for criterion, rated in ratings.items():
        for allocation in ALLOCATIONS:
            gates = _dropped(groups, alive, rated, len(joint.order), allocation)
            made_up = jp.structured.readjusted(groups, subject.hessian, gates)
            found[f"{criterion}, {allocation}"] = (subject.measured(made_up), subject.measured(gates))
    told = f"  {subject.name}, {subject.share:.0%} off"
    yield Row(f"{told}: KL to dense, joint", (kl,), "", note=f"accuracy {accuracy:.3f}; {seconds:.1f} s")
    best, alone = (min(found, key=lambda one, way=way: found[one][way][0]) for way in (0, 1))
    (other, its), (raw, without) = found[best][0], found[alone][1]
    yield Row(f"{told}: best diagonal re-adjusted", (other,), "", note=f"accuracy {its:.3f}; {best}")
    yield Row(f"{told}: best diagonal as it is", (raw,), "", note=f"accuracy {without:.3f}; {alone}")
    yield Row(
        f"{told}: joint over the best diagonal re-adjusted", (kl / other,), "times", at_most=1 / 3 if bounded else None
    )


def _in_rounds(subject: Subject) -> Iterator[Row]:
    """The joint order in rounds, and the diagonal of the same Hessians in as many, re-adjusted by these."""
    told = f"  {subject.name}, {subject.share:.0%} off in {ROUNDS} rounds"
    kl, accuracy = subject.measured(subject.jointly(ROUNDS).factors)
    yield Row(f"{told}: KL to dense, joint", (kl,), "", note=f"accuracy {accuracy:.3f}")
    found = {allocation: subject.measured(_diagonal_in_rounds(subject, allocation)) for allocation in ALLOCATIONS}
    best = min(found, key=lambda one: found[one][0])
    yield Row(f"{told}: diagonal", (found[best][0],), "", note=f"accuracy {found[best][1]:.3f}; {best}")
    yield Row(f"{told}: joint over the diagonal", (kl / found[best][0],), "times")


def _diagonal_in_rounds(subject: Subject, allocation: str) -> dict[str, np.ndarray]:
    groups, loss, here = subject.groups, TARGETS[subject.name], subject.network
    scoring = subject.data["scoring"]["image"]
    batches = [{"image": scoring, "teacher": outputs(here, scoring)}]
    gates, factors = jp.structured.ones(groups), {group.name: np.ones(group.size) for group in groups}
    whole = _units(gates)
    for number in range(1, ROUNDS + 1):
        hessian = jp.structured.gate_hessian(here, groups, batches, loss=loss, gates=gates, matrix="ggn")
        scaled = jp.structured.factored(here, groups, gates)
        slope = jp.curvature.gradient(scaled, loss, batches[0])
        left = round(whole * (1 - subject.share) ** (number / ROUNDS))
        gates = _dropped(groups, gates, _named(groups, np.diagonal(hessian)), _units(gates) - left, allocation)
        step = jp.structured.readjusted(
            groups, hessian, gates, slope={name: np.asarray(values, np.float64) for name, values in slope.items()}
        )
        factors = {name: values * step[name] for name, values in factors.items()}
        here = jp.structured.fold(subject.network, groups, factors)
    return factors


def _dropped(groups: Any, gates: Any, rated: Any, count: float, allocation: str) -> dict[str, np.ndarray]:
    found = jp.structured.drop_units(groups, gates, rated, _units, count, allocation=allocation)
    assert found is not None
    return found


def _named(groups: Any, values: np.ndarray) -> dict[str, np.ndarray]:
    edges = np.cumsum([group.size for group in groups])
    return {group.name: part for group, part in zip(groups, np.split(values, edges), strict=False)}


def _digits() -> dict[str, Any]:
    source = jp.data.digits()
    parts = jp.data.split(source.labels, source.name, SEED)
    found = {name: jp.data.select(source, part) for name, part in parts.items()}
    training = {key: np.concatenate([found[name][key] for name in PARTS]) for key in ("image", "label")}
    return {"training": training, "scoring": found["scoring"], "test": found["test"]}


def _trained(data: Mapping[str, Any], steps: int) -> jp.Network:
    module = jp.models.vit(patch=2, image=8, classes=10, width=32, heads=4, depth=3)
    variables = jax.jit(module.init)(jax.random.key(SEED), data["training"]["image"][:1])
    start = jp.Network.from_linen(module, variables, train={"train": True})
    tx = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, RATE[steps], steps // 10, steps), weight_decay=0.01)
    options: dict[str, Any] = {"steps": steps, "batch_size": 64, "seed": SEED, "augment": _moved}
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
    average = jp.curvature.average
    fisher = average(lambda batch: jp.curvature.diagonal(scaled, loss, batch, "empirical_fisher"), scoring)
    slope = average(lambda batch: jp.curvature.gradient(scaled, loss, batch), scoring)
    rate = {"magnitude": criteria.l2(), "activation": criteria.activation()}
    rate |= {"random": criteria.random(jax.random.key(SEED)), "labelled second order": effects.second_order(loss)}
    return {
        **{f"{name} diagonal": _named(groups, np.diagonal(hessian)) for name, hessian in hessians.items()},
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
