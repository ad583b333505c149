"""The rate of fine-tuning: chosen for every network on the selection images of the source, or fixed."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from rich.console import Console

import jaxprune as jp
from experiments import transfer
from experiments.shared import conditions, cooling, frozen_heads, pages
from experiments.shared.methods import parse
from experiments.shared.pruned import prune
from experiments.shared.study import run
from experiments.transfer import protocol
from experiments.transfer.estimate import Cost, Speeds, _rate, _seconds
from tests.experiments import small

STEPS = 20
RATES = (1e-4, 3e-2, 3.0)


def asked(out: Path, **options: Any) -> transfer.Settings:
    settings: dict[str, Any] = {
        "network": small.network,
        "data": small.images,
        "batch_size": 16,
        "finetune_steps": STEPS,
        "penalties": (1.0,),
        "methods": ("magnitude",),
        "sparsities": (0.5,),
        "seeds": (0,),
        "shifts": (),
    }
    return transfer.Settings(**settings | options, out=out)


def with_rates(world: frozen_heads.World, *rates: float) -> frozen_heads.World:
    return dataclasses.replace(world, settings=dataclasses.replace(world.settings, finetune_rates=rates))


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with jax.enable_x64(False):
        inputs = transfer.open_study(asked(tmp_path_factory.mktemp("rates"), finetune_rates=RATES))
        return transfer.prepare_seed(inputs.settings, inputs, 0)


@pytest.fixture(scope="module")
def pruned(world):
    """A pruned network and its mask."""
    with jax.enable_x64(False):
        network, mask, _ = prune(world, parse("magnitude"), 0.5)
        return network, mask


def held_out_accuracies(world: frozen_heads.World, network: jp.Network, mask: Any) -> list[float]:
    """Of every rate, on the images that the split calls selection, with as little of the study as possible."""
    source, indices = world.inputs.indices(0, "selection", world.inputs.source.classes)
    labels = np.searchsorted(world.inputs.source.classes, source.labels[indices])
    head = world.heads[world.inputs.source.name]
    found = []
    for rate in RATES:
        tx = jp.optim.with_mask(optax.adam(optax.cosine_decay_schedule(rate, STEPS)), mask)
        headed = world.headed(network)
        trained = jp.train.fit(
            headed, jp.losses.squared_error, tx, world.finetuning, steps=STEPS, batch_size=16, seed=0
        )
        body = small.network()
        (features,) = jp.sites.read(
            jp.Network(body.apply, trained.params), source.images(indices).astype(np.float32), ["features"]
        )
        found.append(float(np.mean(np.argmax(np.asarray(head(np.asarray(features))), axis=-1) == labels)))
    return found


def test_finetuned_takes_the_rate_with_the_best_held_out_accuracy(world, pruned):
    found = held_out_accuracies(world, *pruned)
    assert len(set(found)) == len(RATES)
    best = int(np.argmax(found))
    assert 0 < best < len(RATES) - 1  # neither the first nor the last
    tuned = frozen_heads.finetuned(world, *pruned)
    assert tuned.rate == RATES[best]
    assert frozen_heads.selection_accuracy(world, tuned.network) == pytest.approx(found[best])
    again = frozen_heads.finetuned_at(world, *pruned, RATES[best])
    assert jax.tree.all(jax.tree.map(np.array_equal, tuned.network.params, again.params))


def test_finetuned_takes_the_smallest_of_rates_that_are_equally_good(world, pruned):
    assert frozen_heads.finetuned(with_rates(world, 3e-9, 1e-9, 2e-9), *pruned).rate == 1e-9


def test_finetuned_chooses_nothing_where_the_rate_is_fixed(world, pruned, monkeypatch):
    calls, fit = [], jp.train.fit
    monkeypatch.setattr(jp.train, "fit", lambda *given, **named: calls.append(1) or fit(*given, **named))
    monkeypatch.setattr(frozen_heads, "selection_accuracy", None)
    assert frozen_heads.finetuned(with_rates(world, 1e-3), *pruned).rate == 1e-3
    assert len(calls) == 1


def test_finetuned_passes_over_rates_at_which_training_diverges(world, pruned):
    assert frozen_heads.finetuned(with_rates(world, 1e-9, 1e38), *pruned).rate == 1e-9
    with pytest.raises(FloatingPointError, match=r"finetune_rates: expected one at which .* got \[1e\+37, 1e\+38\]"):
        frozen_heads.finetuned(with_rates(world, 1e37, 1e38), *pruned)


def test_selection_accuracy_counts_outputs_that_are_not_finite_as_wrong(world):
    broken = world.dense.replace(
        params=jax.tree.map(lambda leaf: np.full(leaf.shape, 1e38, np.float32), world.dense.params)
    )
    assert frozen_heads.selection_accuracy(world, broken) == 0


def test_finetuned_looks_at_the_selection_images_alone(world, pruned, monkeypatch):
    looked, features = [], frozen_heads.transfer.features

    def seen(network, batches):
        whole = list(batches)
        looked.extend(np.asarray(image).tobytes() for batch in whole for image in batch["image"])
        return features(network, whole)

    monkeypatch.setattr(frozen_heads.transfer, "features", seen)
    frozen_heads.finetuned(dataclasses.replace(world, tests={}, fitting={}), *pruned)
    images = {
        name: {
            np.asarray(image).tobytes() for image in world.inputs.part(0, name, world.inputs.source.classes)["image"]
        }
        for name in ("selection", "test")
    }
    assert images["selection"] <= set(looked)
    assert not images["test"] & set(looked)


@pytest.mark.parametrize("make", [cooling.adam, protocol.transformation])
def test_transformation_is_made_once_for_each_rate(make):
    made = [make(rate, STEPS) for rate in (1e-3, 1e-2, 1e-3)]
    assert made[0] is made[2]
    assert made[0] is not made[1]


def test_adam_of_every_rate_is_one_program_and_that_of_optax():
    params = {"w": np.linspace(-1, 1, 5, dtype=np.float32)}
    gradients = [{"w": np.cos(np.arange(5, dtype=np.float32) + step)} for step in range(4)]
    ours = [cooling.adam(rate, 6) for rate in (1e-3, 1e-2)]
    assert ours[0].update is ours[1].update
    assert len({jp.optim.with_mask(tx, {"w": np.ones(5, bool)}).update for tx in ours}) == 1
    for tx, rate in zip(ours, (1e-3, 1e-2), strict=True):
        want = optax.adam(optax.cosine_decay_schedule(rate, 6))
        state, other = tx.init(params), want.init(params)
        for each in gradients:
            got, state = tx.update(each, state, params)
            wanted, other = want.update(each, other, params)
            np.testing.assert_allclose(got["w"], wanted["w"], rtol=1e-6)


def test_transfer_records_the_rate_of_every_network_and_tunes_the_dense_one_by_the_same_grid(tmp_path, monkeypatch):
    tried, finetuned_at = [], frozen_heads.finetuned_at

    def spied(world, network, mask, rate, order=None):
        tried.append((jp.masks.sparsity(mask, world.prunable), rate))
        return finetuned_at(world, network, mask, rate, order)

    monkeypatch.setattr(frozen_heads, "finetuned_at", spied)
    found = iter([0.1, 0.3, 0.2, 0.5, 0.2, 0.2])
    monkeypatch.setattr(frozen_heads, "selection_accuracy", lambda world, network: next(found))
    text = run(transfer.STUDY, asked(tmp_path, finetune_rates=RATES), Console(file=io.StringIO())).read_text()
    records = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")]
    tuned = [one for one in records if one["config"]["@type"] == "Run"]
    assert {one["config"]["score"]: one["metrics"]["finetune_rate"] for one in tuned} == {
        "dense": RATES[1],
        "magnitude": RATES[0],
    }
    assert tried == [(sparsity, rate) for sparsity in (0, 0.5) for rate in RATES]
    assert "at the rate among 0.0001, 0.03 and 3 that is best for each network on the selection images" in text


def test_completed_settings_of_equal_studies_are_equal(tmp_path):
    def runs(**given: Any) -> list[transfer.settings.Run]:
        inputs = transfer.open_study(asked(tmp_path, **given))
        return transfer.plan(inputs.settings, inputs)

    assert runs(finetune_rate=1e-3) == runs(finetune_rates=(1e-3,))
    assert runs(finetune_rates=(1, 1e-3)) == runs(finetune_rates=(1e-3, 1.0))
    assert runs() == runs(finetune_rates=conditions.PRETRAINED_RATES)
    assert runs() != runs(finetune_rate=conditions.PRETRAINED_RATES[0])
    completed = transfer.open_study(asked(tmp_path)).settings
    assert transfer.open_study(completed).settings == completed  # once is enough
    trained_here = transfer.open_study(transfer.Settings(out=tmp_path)).settings
    assert trained_here.finetune_rates == conditions.FINETUNE_RATES


def test_estimate_counts_the_fine_tunings_of_the_whole_grid_and_their_passes_over_selection_images(tmp_path):
    speeds = Speeds(examples=1, fetching=1e9, features=10.0, gradient=5.0, bytes=0)
    sizes = dict.fromkeys(("scoring", "finetuning", "head", "selection", "test"), 0)
    costs = dict.fromkeys(("dense", "magnitude"), Cost(0.0, 0, ""))

    def seconds(*rates: float) -> float:
        inputs = transfer.open_study(asked(tmp_path, finetune_rates=rates))
        return _seconds(inputs.settings, inputs, sizes, speeds, costs)[0]

    inputs = transfer.open_study(asked(tmp_path))
    selection = len(inputs.indices(0, "selection", inputs.source.classes)[1])
    tuning = STEPS * 16 / 5
    assert seconds(1e-3) == pytest.approx(2 * tuning)  # of two runs
    assert seconds(*RATES) == pytest.approx(2 * 3 * (tuning + selection / 10))


def test_rate_is_said_in_words():
    settings = transfer.Settings(finetune_rates=(2e-4, 6e-4, 2e-3))
    assert pages.rate(settings) == (
        "at the rate among 0.0002, 0.0006 and 0.002 that is best for each network on the selection images"
    )
    assert _rate(settings.finetune_rates) == "at the best of 3 rates for each network (0.0002, 0.0006 and 0.002)"
    assert pages.rate(transfer.Settings(finetune_rates=(0.01,))) == "at a rate of 0.01"
