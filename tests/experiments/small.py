"""A study that computes nothing, for the laws of the skeleton; and functions as a user would name them."""

import dataclasses
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from experiments.shared.images import Sources, halves
from experiments.shared.results import Claim, above_zero, case
from experiments.shared.settings import Execution
from experiments.shared.study import Study
from jaxprune import report


@dataclass(frozen=True)
class Run:
    seed: int
    number: int
    scale: float


@dataclass(frozen=True)
class Settings(Execution):
    """A small study."""

    numbers: tuple[int, ...] = (1, 2, 3)
    scale: float = 1.0
    out: Path = Path("results/small")
    breaking: str = ""
    """What the run of seed 1 and number 2 does."""


@dataclass(frozen=True)
class Inputs:
    settings: Settings
    fingerprint: str = "data"


def open_study(settings: Settings) -> Inputs:
    if settings.scale <= 0:
        raise ValueError(f"scale: expected a number above 0, but got {settings.scale}.")
    return Inputs(settings)


def plan(settings: Settings, inputs: Inputs) -> list[Run]:
    return [Run(seed, number, settings.scale) for seed in settings.seeds for number in settings.numbers]


prepared: list[int] = []


def prepare(settings: Settings, inputs: Inputs, seed: int) -> Settings:
    prepared.append(seed)
    if settings.breaking == "prepare" and seed == 1:
        raise FloatingPointError("nothing to prepare")
    return settings


def measure(settings: Settings, run: Run) -> dict[str, Any]:
    if (run.seed, run.number) == (1, 2):
        if settings.breaking == "fail":
            raise FloatingPointError("a weight is [nan]")
        if settings.breaking == "interrupt":
            raise KeyboardInterrupt
        if settings.breaking == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
    return {"value": run.scale * (run.seed + run.number), "parts": {"half": 0.5}, "provenance": {"clock": 1.0}}


def cases(results: Any) -> Any:
    for number in results.values("number"):
        yield case({"number": number}, [metrics["value"] for metrics in results.of(number=number)])


def page(settings: Settings, results: Any, tested: Any) -> report.Page:
    made = report.Page("A small study", f"{len(tested)} cases.")
    made.text(f"Seeds {results.seeds}.")
    return made


STUDY = Study(
    "small",
    open_study,
    plan,
    lambda run: run.seed,
    prepare,
    measure,
    lambda settings: [Claim("positive", "a value above 0", cases, above_zero, "1")],
    page,
)


# --------------------------------------------------------------------------------------------- functions of a user's


def network(tag: str = "features") -> jp.Network:
    """A network without BatchNorm that takes images of any size."""
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "conv": {"kernel": 0.3 * jax.random.normal(keys[0], (3, 3, 1, 4))},
        "head": {"kernel": jax.random.normal(keys[1], (4, 10))},
    }

    def apply(params: Any, state: Any, images: Any) -> Any:
        dimensions = ("NHWC", "HWIO", "NHWC")
        found = jax.lax.conv_general_dilated(images, params["conv"]["kernel"], (1, 1), "SAME", None, None, dimensions)
        features = jax.nn.relu(found).mean((1, 2))
        return (checkpoint_name(features, tag) if tag else features) @ params["head"]["kernel"]

    return jp.Network(apply, params)


def deeper() -> jp.Network:
    """A network with units before its features: an own function with statistics, and two convolutions."""
    draw = np.random.default_rng(0)
    shapes = {"first": (3, 3, 1, 6), "second": (3, 3, 6, 4), "head": (4, 10)}
    params = {name: {"kernel": (draw.normal(size=shape) / 3).astype(np.float32)} for name, shape in shapes.items()}
    params["first"]["scale"] = (1 + draw.normal(size=6) / 9).astype(np.float32)
    state = {"mean": (draw.normal(size=6) / 9).astype(np.float32)}

    def conv(images: Any, kernel: Any) -> Any:
        return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", None, None, ("NHWC", "HWIO", "NHWC"))

    def apply(params: Any, state: Any, images: Any) -> Any:
        hidden = (conv(images, params["first"]["kernel"]) - state["mean"]) * params["first"]["scale"]
        features = jax.nn.relu(conv(jax.nn.relu(hidden), params["second"]["kernel"])).mean((1, 2))
        return checkpoint_name(features, "features") @ params["head"]["kernel"]

    return jp.Network(apply, params, state)


def network_without_tags() -> jp.Network:
    return network("")


def network_with_a_preprocess() -> tuple[jp.Network, jp.types.Preprocess]:
    return network(), jp.types.Preprocess(resize=8, mean=(0.0,) * 3, std=(1.0,) * 3)


def not_a_network() -> int:
    return 3


def smallest_first(network: jp.Network, batches: Any, loss: Any) -> Any:
    assert callable(loss)
    return jax.tree.map(lambda leaf: -jnp.abs(leaf), network.params)


def images() -> jp.data.Source:
    whole = jp.data.digits()
    few = np.arange(600)
    return dataclasses.replace(whole, name="few digits", labels=whole.labels[few], pixels=whole.images(few))


def few_digits() -> Sources:
    """As many as a study can be made of in a test, with the tasks that the digits have."""
    whole = jp.data.digits()
    few = np.arange(400)
    source = dataclasses.replace(whole, name="400 digits", labels=whole.labels[few], pixels=whole.images(few))
    return Sources(source, None, halves(10, ("0-4", "5-9")))
