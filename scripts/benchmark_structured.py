"""Networks that are really smaller: how fast they are, and what a step of the search for them costs."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from benchmark_rows import Row, timed

import jaxprune as jp
from jaxprune.structured import choosers, criteria, effects

SEED, IMAGE = 0, (32, 32, 3)


def faster(rounds: int) -> Iterator[Row]:
    """Times ResNet-56 at half of its operations, by depth, by uniform width and by uneven widths, against dense."""
    module = jp.models.resnet_cifar(56)
    variables = jax.jit(module.init)(jax.random.key(SEED), np.zeros((1, *IMAGE), np.float32))
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    book = jp.structured.account(module, params, state, IMAGE)
    ones = jp.structured.ones(module.groups())
    bounds = {"depth": 0.6, "uniform width": 0.8, "uneven widths": None}
    networks, kept = {"dense": module.network(params, state)}, {"dense": 1.0}
    for name, gates in _halves(module, book, ones).items():
        specification, *arrays = jp.structured.remove(module, params, state, gates)
        networks[name] = specification.network(*arrays)
        kept[name] = book.macs(gates) / book.macs(ones)
    for size in (64, 1):
        images = np.random.default_rng(SEED).normal(size=(size, *IMAGE)).astype(np.float32)
        seconds = in_turns(networks, images, rounds)
        for name, bound in bounds.items():
            ratios = tuple(mine / whole for mine, whole in zip(seconds[name], seconds["dense"], strict=True))
            title = f"ResNet-56, batch {size}: latency with {1 - kept[name]:.1%} fewer operations by {name}"
            note = f"fastest rounds: {min(seconds[name]) / min(seconds['dense']):.3g}"
            yield Row(title, ratios, "times", at_most=bound if size == 64 else None, note=note)


def _halves(module: Any, book: Any, ones: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Gates that leave half of the operations."""
    rng, groups = np.random.default_rng(SEED), module.groups()
    ratings = {group.name: rng.random(group.size) for group in groups}
    half = book.macs(ones) / 2
    return {
        "depth": jp.structured.drop_layers(groups, ones, ratings, book.macs, half),
        "uniform width": jp.structured.drop_units(groups, ones, ratings, book.macs, half, allocation="uniform"),
        "uneven widths": jp.structured.drop_units(groups, ones, ratings, book.macs, half, allocation="global"),
    }  # type: ignore[return-value]


def in_turns(networks: Mapping[str, jp.Network], images: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Seconds of every network, each round all of them; compiled beforehand."""
    calls = {
        name: jax.jit(lambda network, x: network(x)).lower(one, images).compile() for name, one in networks.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for number in range(-1, rounds):
        for name, network in networks.items():
            took, _ = timed(lambda call=calls[name], network=network: call(network, images))
            if number >= 0:
                seconds[name].append(took)
    return seconds


def counts(rounds: int) -> Iterator[Row]:
    """Counts what the paper states of ResNet-56, exactly."""
    del rounds
    module = jp.models.resnet_cifar(56)
    shapes = jax.eval_shape(module.init, jax.random.key(SEED), np.zeros((1, *IMAGE), np.float32))
    params, state = shapes["params"], {"batch_stats": shapes["batch_stats"]}
    book = jp.structured.account(module, params, state, IMAGE)
    gates = jp.structured.ones(module.groups())
    whole, ratings = book.macs(gates), {group.name: np.zeros(group.size) for group in module.groups()}
    yield Row("multiply-accumulates of ResNet-56", (float(whole),), "", at_least=125_747_840, at_most=125_747_840)
    first = jp.structured.drop_layers(module.groups(), gates, ratings, book.macs, None)
    yield Row("removed by its first layer", (100 * (1 - book.macs(first) / whole),), "%", at_least=3.745, at_most=3.755)
    while (left := jp.structured.drop_layers(module.groups(), gates, ratings, book.macs, None)) is not None:
        gates = left
    removed = 100 * (1 - book.macs(gates) / whole)
    yield Row(
        "removed by all layers that can go, [9, 9, 9] to [2, 2, 2]", (removed,), "%", at_least=78.795, at_most=78.805
    )


def step(rounds: int) -> Iterator[Row]:
    """Follows a search on the digits: what scoring, choice and selection take of a step, and what a step compiles."""
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(seconds) if name.endswith("backend_compile_duration") else None
    )
    source = jp.data.digits()
    data = {name: jp.data.select(source, part) for name, part in jp.data.split(source.labels, source.name, 0).items()}
    module = jp.models.resnet_cifar(20)
    variables = jax.jit(module.init)(jax.random.key(SEED), data["pretraining"]["image"][:1])
    dense = jp.Network.from_linen(module, variables, train={"train": True})
    transformations = {"brief": optax.adamw(2e-3), "long": optax.adamw(optax.cosine_decay_schedule(2e-3, 150))}

    def tune(network: jp.Network, parent: jp.Network, number: int, stage: str) -> jp.Network:
        del parent
        options: dict[str, Any] = {"steps": {"brief": 50, "long": 150}[stage], "batch_size": 64, "seed": number}
        return jp.train.fit(network, jp.losses.cross_entropy, transformations[stage], data["pretraining"], **options)

    loss = jp.losses.cross_entropy
    rated = {"second-order": effects.second_order(loss), "l2": criteria.l2(), "kl": effects.kl()}
    for name, criterion in rated.items():
        search = jp.structured.Search(
            criteria={"layer": criterion, "neurons": criterion},
            chooser=choosers.cka(jp.data.Batches(data["scoring"], 215)),
            tune=tune,
            scoring=jp.data.Batches(data["scoring"], 215),
            image_shape=(8, 8, 1),
            steps=3 if name == "kl" else 1 + rounds,
        )
        shares, programs, longest = [], [], 0.0
        for found in search(module, dense):
            if found.number > 1:
                total = sum(seconds for part, seconds in found.seconds.items() if part != "compile")
                shares.append(100 * (found.seconds["criterion"] + found.seconds["choice"]) / total)
                programs.append(float(len(compiled)))
                longest = max(longest, found.seconds["criterion"])
            compiled.clear()
        bound = None if name == "kl" else 10.0
        note = f"criterion at most {longest:.2f} s; steps that contest layers and neurons, and steps that cannot"
        yield Row(f"scoring, CKA and selection in a step, {name}", tuple(shares), "%", at_most=bound, note=note)
        yield Row(f"programs compiled in a step after the first, {name}", (max(programs),), "", at_most=0.0)
