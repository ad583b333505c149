"""What studies of pruned networks train first: its defaults, its batches, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from experiments import landscape, patterns, transfer
from experiments.landscape.settings import open_study
from experiments.shared import frozen_heads, options, pages
from experiments.shared.architectures import ARCHITECTURES, architecture_of, check_architecture, filled, shifted
from jaxprune.store import Store
from tests.experiments import studies

USUAL = {"depth": 8, "width": 6, "pretrain_steps": 1000, "pretrain_rate": 5e-3}
TINY: dict[str, Any] = {"architecture": "vit", "depth": 1, "width": 8, "pretrain_steps": 2, "seeds": (0,)}


def keys(module: Any, out: Path, **settings: Any) -> list[str]:
    inputs = module.STUDY.open(module.Settings(seeds=(0,), out=out, **settings))
    store = Store(out, module.STUDY.name, version=module.STUDY.version, data=inputs.fingerprint)
    return [store.key(one) for one in module.STUDY.plan(inputs.settings, inputs)]


def test_filled_gives_each_architecture_what_it_is_usually_trained_with(tmp_path):
    for architecture, found in ARCHITECTURES.items():
        asked = transfer.Settings(architecture=architecture, out=tmp_path)
        made = filled(asked)
        assert {name: getattr(made, name) for name in USUAL} == found.usual
        assert filled(dataclasses.replace(asked, width=16, pretrain_steps=3)).width == 16
    assert ARCHITECTURES[""].usual == USUAL
    assert filled(transfer.Settings(out=tmp_path), {"width": 8}).width == 8
    assert filled(transfer.Settings(architecture="vit", out=tmp_path), {"width": 8}).width == 32


def test_filled_has_no_method_of_a_vit_that_takes_a_product_for_every_weight(tmp_path):
    words = filled(transfer.Settings(architecture="vit", out=tmp_path)).methods
    assert words[:4] == ("magnitude", "logits/diagonal", "label/fisher", "label/snip")
    assert len(set(words)) == len(words)
    assert not [one for one in words if one.startswith(("label/diagonal", "label/greedy"))]
    asked = transfer.Settings(architecture="vit", methods=("label/diagonal",), out=tmp_path)
    assert filled(asked).methods == ("label/diagonal",)
    assert filled(transfer.Settings(out=tmp_path)).methods == transfer.Settings.methods
    assert filled(patterns.Settings(architecture="vit", out=tmp_path)).methods[1] == "logits/diagonal"


def test_filled_gives_records_of_a_resnet_the_keys_of_its_usual_settings(tmp_path):
    assert keys(transfer, tmp_path / "a") == keys(transfer, tmp_path / "a", **USUAL)
    assert keys(patterns, tmp_path / "b") == keys(patterns, tmp_path / "b", **{**USUAL, "width": 8})
    # Whoever changes it computes every study anew.
    assert keys(transfer, tmp_path / "c")[0] == "d7e970fc509a7d91"
    assert not set(keys(transfer, tmp_path / "d", architecture="vit")) & set(keys(transfer, tmp_path / "d"))


def test_shifted_moves_whole_images_by_at_most_an_eighth():
    images = jax.random.uniform(jax.random.key(0), (200, 16, 16, 1)) + 1
    batch = {"image": images, "label": jnp.arange(200)}
    found = shifted(batch, jax.random.key(1))
    assert found["label"] is batch["label"]
    padded = np.pad(np.asarray(images), ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = set()
    for number, image in enumerate(np.asarray(found["image"])):
        places |= {
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(image, padded[number, row : row + 16, column : column + 16])
        }
    assert places == {(row, column) for row in range(5) for column in range(5)}


def test_pretrain_trains_a_vit_whose_classifier_is_neither_pruned_nor_moved(tmp_path):
    inputs = transfer.open_study(transfer.Settings(**TINY, out=tmp_path))
    data = inputs.part(0, "pretraining")
    network = frozen_heads.pretrain(inputs.settings, 0, data, 10)
    described = network.module.describe()
    assert (described["family"], described["width"], len(described["blocks"])) == ("vit", 8, 1)
    prunable = jp.tree.by_name(options.prunable(network.params, frozen_heads.CLASSIFIER))
    movable = jp.tree.by_name(frozen_heads.movable(network.params))
    assert not prunable["head/kernel"]
    assert not movable["head/kernel"]
    assert not movable["head/bias"]
    assert all(inside == (name.endswith("kernel") and "head/" not in name) for name, inside in prunable.items())
    assert all(inside for name, inside in movable.items() if not name.startswith("head/"))
    assert "features" in jp.sites.tags(network, jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32))
    said = pages.network(inputs.settings, "", [{"pretrained": {"accuracy": 0.25}}, {}])
    assert said.startswith("ViT of depth 1 and width 8")
    assert said.endswith("pretrained on all classes. Its own classifier gets 25.0 % of all classes right.")


def test_architecture_of_settings_without_one_is_the_resnet():
    assert architecture_of(object()) is architecture_of(transfer.Settings(architecture="dino/vit_s16"))
    assert architecture_of(transfer.Settings(architecture="vit")) is ARCHITECTURES["vit"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "vit_s"}, r"architecture: expected none, or vit, where .* got 'vit_s'\. Pass weights"),
        ({"width": 12}, r"width: expected a multiple of 8 for the ViT .* but got 12\. Take 16\."),
        ({"depth": 0}, "depth: expected"),
        ({"width": 10**7}, "width, depth: "),
        ({"pretrain_rate": 0.0}, "pretrain_rate: expected a finite number above 0"),
        ({"recalibrate": True}, "recalibrate: expected BatchNorm"),
        ({"weights": __file__}, "architecture: unknown value 'vit'"),
    ],
)
def test_check_architecture_finds_a_bad_value_before_anything_expensive(tmp_path, monkeypatch, change, message):
    studies.refused("transfer", tmp_path, monkeypatch, message, **{**TINY, **change})


def test_check_architecture_refuses_images_that_a_vit_cannot_cut_into_patches():
    settings = transfer.Settings(**TINY)
    check_architecture(settings, (12, 12, 1))
    with pytest.raises(ValueError, match=r"image: expected a multiple of 4 for the ViT .* but got 34\. Take 36\."):
        check_architecture(settings, (34, 34, 3))
    with pytest.raises(ValueError, match=r"data: expected square images .* but got \(8, 12, 1\)"):
        check_architecture(settings, (8, 12, 1))


def test_open_study_of_every_study_of_pruned_networks_takes_a_vit(tmp_path):
    for made in (transfer.open_study, patterns.open_study, open_study):
        module = {transfer.open_study: transfer, patterns.open_study: patterns}.get(made, landscape)
        settings = made(module.Settings(architecture="vit", out=tmp_path)).settings
        assert (settings.depth, settings.width) == (3, 32)
