"""What a transfer study would do, how long it would take and how much memory, without doing it.

Speeds are measured on one batch of the study's own images; what scores take is asked of ``jp.curvature.plan``, which
compiles their programs.  An estimate is right to within a factor of about two.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments.shared import options
from experiments.shared.methods import DENSE, Method, parsed
from experiments.shared.pages import counted, duration, joined
from experiments.shared.pretrained import Weights
from experiments.shared.splits import PROTOCOLS, Inputs
from experiments.shared.work import part
from experiments.transfer.settings import Rung, Settings, plan
from jaxprune import memory, sites
from jaxprune.data.splits import shuffled
from jaxprune.evaluate import transfer

# Scores that are a quantity of the curvature, and the gradients that others take for each batch.
_QUANTITIES: dict[str, tuple[str, str]] = {
    "diagonal": ("diagonal", "hessian"),
    "diagonal-estimate": ("diagonal", "hessian"),
    "quadratic": ("block_product", "hessian"),
    "quadratic-signed": ("block_product", "hessian"),
    "fisher": ("diagonal", "empirical_fisher"),
}
_GRADIENTS = {"dense": 0.0, "magnitude": 0.0, "random": 0.0, "snip": 1.0, "synflow": 1.0, "grasp": 4.0}
_PRODUCT = 4.0  # gradients of a Hessian-vector product, as ``scripts/benchmark curvature`` measures it, rounded up


class Speeds(NamedTuple):
    """What was measured on one batch, in images per second, and what the programs take, in bytes."""

    examples: int
    fetching: float
    features: float
    gradient: float
    bytes: int

    def of(self, computing: float, streamed: bool) -> float:
        """Images per second of a pass over data: fetching and computing overlap, and the slower one decides."""
        return min(computing, self.fetching) if streamed else computing


class Cost(NamedTuple):
    """What one scoring takes for each batch: gradients (None: not known), bytes, and in words."""

    gradients: float | None
    bytes: int
    said: str


def estimate(settings: Settings, inputs: Inputs, console: Console) -> None:
    """Prints the plan of a study whose inputs were checked."""
    # Names of files hold colons and brackets, which rich would take for signs and styles.
    say = partial(console.print, emoji=False, markup=False, highlight=False, soft_wrap=True)
    _say_inputs(settings, inputs, say)
    if not inputs.streams:
        say("Times are estimated for pretrained networks that have a Preprocess only.")
        return
    seed = settings.seeds[0]
    sizes = _sizes(settings, inputs, seed)
    headed, batch, speeds = _measured(settings, inputs, seed)
    say(
        f"Measured on {speeds.examples} images: reading and preprocessing {speeds.fetching:,.0f} images/s, features "
        f"{speeds.features:,.0f} images/s, gradients {speeds.gradient:,.0f} images/s."
    )
    costs = {one.word: _cost(settings, headed, batch, one) for one in (DENSE, *parsed(settings))}
    seconds, unknown = _seconds(settings, inputs, sizes, speeds, costs)
    table = Table("method", "for each batch that scores", "memory", title="What scores take")
    for word, cost in costs.items():
        table.add_row(word, cost.said, _bytes(cost.bytes))
    console.print(table)
    peak = max(speeds.bytes, *(cost.bytes for cost in costs.values()))
    missing = "" if not unknown else f", and what {', '.join(unknown)} take, which is not estimated"
    say(
        f"In all about {duration(seconds)}{missing}, on {jax.devices()[0].device_kind}. Programs take at most about "
        f"{_bytes(peak)} beside the network and the images in memory; {_bytes(memory.available(None))} may be taken. "
        "Nothing was computed."
    )


def _say_inputs(settings: Settings, inputs: Inputs, say: Callable[[str], None]) -> None:
    runs = plan(settings, inputs)
    lower = ", and at lower ones for certificates" if any(isinstance(run, Rung) for run in runs) else ""
    say(
        f"{counted(len(runs), 'run')}: {counted(len(settings.seeds), 'seed')}, the dense network and "
        f"{counted(len(settings.methods), 'method')}, each at {counted(len(settings.sparsities), 'share')} of zeros"
        f"{lower}. Results go to {settings.out}."
    )
    if inputs.weights is not None:
        _say_weights(inputs.weights, say)
    for source, indices in inputs.used():
        shape = " x ".join(map(str, source.image_shape))
        say(f"{source.name}: {len(indices):,} of {len(source):,} images are used, {shape}.")
    for name, count in inputs.skipped.items():
        say(f"{name}: {counted(count, 'image')} left out, which could not be read or are hidden.")
    say(f"Tasks: {', '.join(task.name for task in inputs.tasks)}; the source is {inputs.source.name}.")
    say(f"Protocol: {settings.protocol}.")
    for leak in PROTOCOLS[settings.protocol]:
        say(f"  Leak: {leak}")
    if inputs.weights is not None:
        sizes = _sizes(settings, inputs, settings.seeds[0])
        listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        say(f"Images: {listed} (head, selection and test of all tasks; test once for each shift too).")
        taken = sum(sizes.values()) * math.prod(inputs.images.image_shape)
        say(
            f"They take {_bytes(taken)} as bytes; parts below a quarter of the memory that may be taken are held in "
            "it, others are read when they are needed."
        )
        say(
            f"Settings: {counted(settings.rounds, 'round')} of pruning, {counted(settings.finetune_steps, 'step')} of "
            f"fine-tuning on {counted(settings.batch_size, 'image')} each, {_rate(settings.finetune_rates)}."
        )


def _rate(rates: tuple[float, ...]) -> str:
    if len(rates) == 1:
        return f"at a rate of {rates[0]:g}"
    return f"at the best of {len(rates)} rates for each network ({joined([f'{one:g}' for one in rates])})"


def _say_weights(weights: Weights, say: Callable[[str], None]) -> None:
    prunable = options.prunable(weights.network.params, "^head/")
    chosen = sum(
        leaf.size
        for leaf, flag in zip(jax.tree.leaves(weights.network.params), jax.tree.leaves(prunable), strict=True)
        if flag
    )
    say(
        f"{weights.name}: {jp.tree.size(weights.network.params):,} parameters, {chosen:,} prunable; SHA-256 "
        f"{weights.fingerprint}. {_preprocess(weights.preprocess)}"
    )
    reasons: dict[str, list[str]] = {}
    for name, why in weights.dropped.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        say(f"  left out: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} ({why})")


def _preprocess(made: Any) -> str:
    if made is None:
        return "Images as they are."
    crop = "" if made.crop is None else f", the central {made.crop} pixels"
    sizes = f"resized to {made.resize} ({made.interpolation}){crop}"
    return f"Images: {sizes}, mean {made.mean}, std {made.std}."


def _sizes(settings: Settings, inputs: Inputs, seed: int) -> dict[str, int]:
    """Counts the images of every part: those of the source, or of all tasks together."""

    def count(name: str, tasks: Any) -> int:
        return sum(len(inputs.indices(seed, name, task.classes)[1]) for task in tasks)

    sizes = {name: count(name, [inputs.source]) for name in ("scoring", "finetuning")}
    sizes |= {name: count(name, inputs.tasks) for name in ("head", "selection", "test")}
    return sizes | {"test": sizes["test"] * (1 + len(settings.shifts))}


def _measured(settings: Settings, inputs: Inputs, seed: int) -> tuple[jp.Network, dict[str, Any], Speeds]:
    """Reads one batch, and measures a pass and a gradient of the network with a head that fits it."""
    assert inputs.weights is not None
    network = inputs.weights.network
    source, indices = inputs.indices(seed, "scoring", inputs.source.classes)
    # Of all classes: a head of one class would have no gradient.
    order = shuffled(len(indices), "the images of an estimate")
    fetching, batch = _read(source, indices[order[: settings.largest_batch]])

    quick = jp.models.sliced(network)  # as the study reads features and trains

    def look() -> Any:
        return jax.block_until_ready(sites.read_jit(quick, batch["image"], sites=("features",))[0])

    features, labels = np.asarray(look()), batch["label"]
    head = options.HEADS["ridge"](1.0)(features, labels, int(labels.max()) + 1)
    headed, quick = (transfer.with_head(one, head) for one in (network, quick))
    loss = options.LOSSES[settings.label_loss]
    # As many as fine-tuning takes at a time, which is what most gradients are for.
    steps = {name: np.resize(one, (settings.batch_size, *one.shape[1:])) for name, one in batch.items()}
    gradient = jax.jit(lambda params: jp.curvature.gradient(quick.replace(params=params), loss, steps))
    compiled = gradient.lower(headed.params).compile()
    speeds = Speeds(
        examples=len(labels),
        fetching=fetching,
        features=_clock(look, len(labels)),
        gradient=_clock(lambda: jax.block_until_ready(compiled(headed.params)), settings.batch_size),
        bytes=_taken(compiled),
    )
    return headed, batch, speeds


def _read(source: Any, indices: np.ndarray) -> tuple[float, dict[str, Any]]:
    """Reads a batch of some images, with labels from 0 on; and how many images are read in a second."""
    indices = np.sort(indices)
    images = jp.data.Stream(source, indices)
    labels = np.unique(source.labels[indices], return_inverse=True)[1]
    batch = {"image": images[:], "label": labels.astype(np.int32)}
    return _clock(lambda: images[:], len(indices)), batch


def _cost(settings: Settings, headed: jp.Network, batch: dict[str, Any], method: Method) -> Cost:
    score, loss = method.score, options.LOSSES[settings.label_loss]
    if method.update != "none":
        return Cost(None, 0, f"not estimated: what {method.update} moves takes more than scoring")
    if method.objective not in ("none", "label"):
        # A head says nothing of these; the distance to the outputs that there are costs what that to all of them does.
        loss = jp.losses.distillation(at="features" if method.objective == "features" else None)
    if score in _GRADIENTS:
        gradients = _GRADIENTS[score]
        return Cost(gradients, 0, "nothing" if not gradients else f"about {counted(int(gradients), 'gradient')}")
    if score not in _QUANTITIES:
        return Cost(None, 0, "not estimated: dense blocks, see jp.curvature.plan")
    quantity, matrix = _QUANTITIES[score]
    asked = {
        "matrix": matrix,
        "scope": options.prunable(headed.params, "^head/"),
        "probes": options.PROBES if score == "diagonal-estimate" else None,
    }
    plan = jp.curvature.plan(headed, loss, batch, quantity, **asked)
    if not plan.fits:
        return Cost(None, plan.bytes, plan.refusal)
    return Cost(plan.gradients, plan.bytes, f"{plan.gradients:.1f} gradients: {plan.route}")


def _seconds(
    settings: Settings, inputs: Inputs, sizes: dict[str, int], speeds: Speeds, costs: dict[str, Cost]
) -> tuple[float, list[str]]:
    """Estimates the seconds of what this shard computes, and names the methods that could not be counted."""
    streamed = True  # the worst case; what fits into memory is read once
    looking = (sizes["head"] + sizes["test"]) / speeds.of(speeds.features, streamed)
    gradient = sizes["scoring"] / speeds.of(speeds.gradient, streamed)
    tuning = settings.finetune_steps * settings.batch_size / speeds.of(speeds.gradient, streamed)
    if len(settings.finetune_rates) > 1:
        _, compared = inputs.indices(settings.seeds[0], "selection", inputs.source.classes)
        tuning += len(compared) / speeds.of(speeds.features, streamed)
    tuning *= len(settings.finetune_rates)
    runs = part(plan(settings, inputs), settings.shard, lambda run: run.seed)
    total = len({run.seed for run in runs}) * ((sizes["head"] + sizes["selection"]) / speeds.features + 2 * gradient)
    tested = sum(not isinstance(run, Rung) for run in runs)  # what others take is a look at a few images
    total += tested * (2 * looking + tuning + (_PRODUCT + 1) * gradient)
    scored = {(run.seed, run.word, run.sparsity if settings.rounds > 1 else None) for run in runs}
    unknown = []
    for _, word, _ in scored:
        if costs[word].gradients is None:
            unknown.append(word)
        else:
            total += settings.rounds * (costs[word].gradients or 0.0) * gradient
    return total, sorted(set(unknown))


def _clock(call: Callable[[], Any], examples: int) -> float:
    """Images per second of the second of two calls: the first compiles, and fills caches."""
    call()
    start = time.perf_counter()
    call()
    return examples / (time.perf_counter() - start)


def _taken(compiled: Any) -> int:
    found = compiled.memory_analysis()
    return 0 if found is None else int(found.temp_size_in_bytes + found.output_size_in_bytes)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e9 else f"{math.ceil(count / 1e6)} MB"
