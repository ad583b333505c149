"""Residual networks of other libraries: their names and shapes, their answers, and mistakes that must show in them."""

import importlib.util
import json
import re
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
from jaxprune import tree
from jaxprune.models import layouts_resnet, mapping, resnet_blocks
from jaxprune.models.clip_resnet import clip_resnet
from jaxprune.models.resnet import ResNet, full_blocks

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("golden_weights", ROOT / "scripts/golden_weights.py")
golden_weights = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(golden_weights)
# The package has a function of that name.
CLIP = sys.modules["jaxprune.models.clip_resnet"]
CASES = json.loads((GOLDEN / "resnet_cases.json").read_text())
REDUCED = [(name, side) for name in ("basic", "bottleneck", "clip") for side in CASES[name]["sides"]]
TOLERANCE = 1e-5
WHAT = ("logits", "features")


def build(name, side):
    """(module, layout) of a stored case."""
    case = CASES[name]
    if case["kind"] == "clip":
        module = clip_resnet(side, case["classes"], case["width"], case["depths"])
        return module, layouts_resnet.clip_resnet(module)
    bottleneck = case["kind"] == "bottleneck"
    module = ResNet(full_blocks(case["depths"], 64, bottleneck), case["classes"], 64, bottleneck, large_images=True)
    return module, layouts_resnet.torchvision_resnet(module)


def like(module, side):
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), np.float32))


def file_shapes(name, side):
    stored = CASES[name]["shapes"]
    return {key: tuple(shape) for key, shape in (stored.get(str(side)) or stored[min(stored)]).items()}


@cache
def tensors(name, side):
    """The file, made from names."""
    found = golden_weights.filled(file_shapes(name, side))
    for pattern, factor in CASES[name].get("scaled", {}).items():
        found |= {key: value * np.float32(factor) for key, value in found.items() if re.fullmatch(pattern, key)}
    return found


@cache
def read(name, side):
    module, layout = build(name, side)
    return mapping.read(layout, tensors(name, side), like(module, side))


@cache
def answers():
    with np.load(GOLDEN / "resnet_answers.npz") as file:
        return dict(file)


def apart(name, side, variables):
    """The largest differences to the source's logits and features, relative to its largest.  Compiled at every call."""
    network = jp.Network.from_linen(build(name, side)[0], variables)

    def evaluate(network, batch):
        return network(batch), *jp.sites.read(network, batch, ("features",))

    found = jax.jit(evaluate)(network, golden_weights.images(side))
    return [relative(value, answers()[f"{name}/{side}/{what}"]) for value, what in zip(found, WHAT, strict=True)]


def relative(found, expected):
    found = np.asarray(found)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == np.float32
    return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


@pytest.mark.parametrize(("name", "side"), REDUCED)
def test_layouts_resnet_names_and_shapes_are_those_of_the_source(name, side):
    module, layout = build(name, side)
    theirs = file_shapes(name, side)
    counters = [key for key in theirs if key.endswith("num_batches_tracked")]
    assert list(mapping.dropped(layout, theirs)) == counters
    found = mapping.shapes(layout, like(module, side))
    assert found == {key: shape for key, shape in theirs.items() if key not in counters}


@pytest.mark.parametrize(("name", "side"), REDUCED)
def test_layouts_resnet_answers_are_those_of_the_source(name, side):
    assert max(apart(name, side, read(name, side))) <= TOLERANCE


@pytest.mark.parametrize("name", ["basic", "bottleneck", "clip"])
def test_layouts_resnet_writes_what_was_read_bit_for_bit(name):
    module, layout = build(name, 64)
    written = mapping.write(layout, read(name, 64))
    wanted = mapping.shapes(layout, like(module, 64))
    assert set(written) == set(wanted)
    for key, value in written.items():
        assert value.tobytes() == tensors(name, 64)[key].tobytes()
    jax.tree.map(np.testing.assert_array_equal, mapping.read(layout, written, like(module, 64)), read(name, 64))


def test_torchvision_resnet_without_a_head_has_no_fc():
    module, layout = build("bottleneck", 64)
    headless = module.clone(classes=0)
    found = mapping.shapes(layouts_resnet.torchvision_resnet(headless), like(headless, 64))
    assert set(mapping.shapes(layout, like(module, 64))) - set(found) == {"fc.weight", "fc.bias"}
    # Its outputs are the features.
    params = {name: part for name, part in read("bottleneck", 64)["params"].items() if name != "head"}
    outputs = jax.jit(headless.apply)({**read("bottleneck", 64), "params": params}, golden_weights.images(64))
    np.testing.assert_allclose(outputs, answers()["bottleneck/64/features"], rtol=1e-5, atol=1e-4)


def test_moco_resnet_lists_what_it_leaves_out_of_a_file():
    module = build("bottleneck", 64)[0].clone(classes=0)
    layout = layouts_resnet.moco_resnet(module)
    backbone = dict(mapping.write(layout, jax.tree.map(lambda leaf: np.zeros(leaf.shape), like(module, 64))))
    others = ["queue", "queue_ptr", "module.queue", "module.queue_ptr", "fc.0.weight", "fc.0.bias", "fc.2.weight"]
    others += ["fc.2.bias", "module.encoder_k.conv1.weight", "module.encoder_k.fc.2.bias", "bn1.num_batches_tracked"]
    assert sorted(mapping.dropped(layout, [*backbone, *others])) == sorted(others)
    assert all(mapping.dropped(layout, others).values())
    # The linear classifier of version 1 is none of them, nor is another network's part.
    assert not mapping.dropped(layout, ["fc.weight", "fc.1.weight", "layer1.0.conv1.weight", "encoder_q.conv1.weight"])


def test_dino_resnet_lists_what_it_leaves_out_of_a_file():
    layout = layouts_resnet.dino_resnet(build("bottleneck", 64)[0].clone(classes=0))
    others = ["head.mlp.0.weight", "head.last_layer.weight_g", "module.head.mlp.2.bias", "bn1.num_batches_tracked"]
    assert list(mapping.dropped(layout, [*others, "conv1.weight", "layer4.0.bn1.bias"])) == others


def test_clip_resnet_lists_what_it_leaves_out_of_a_file():
    module, layout = build("clip", 64)
    text = ["transformer.resblocks.0.ln_1.weight", "token_embedding.weight", "positional_embedding", "ln_final.bias"]
    others = [*text, "text_projection", "logit_scale", "input_resolution", "context_length", "vocab_size"]
    others += ["visual.bn1.num_batches_tracked"]
    wanted = mapping.shapes(layout, like(module, 64))
    assert list(mapping.dropped(layout, [*others, *wanted])) == others
    extra = {name: np.zeros(1, np.float32) for name in others}
    jax.tree.map(
        np.testing.assert_array_equal,
        mapping.read(layout, tensors("clip", 64) | extra, like(module, 64)),
        read("clip", 64),
    )


# Mistakes in what a network computes.  Each is made by replacing something of the modules.


def same_padding(patch):
    """TensorFlow's: at stride 2 an even image has less of it above and on the left."""

    def convolution(self, filters, size, stride, name):
        kernel = {"use_bias": False, "kernel_init": resnet_blocks.HE_NORMAL}
        return nn.Conv(filters, (size, size), strides=stride, padding="SAME", name=name, **kernel)

    patch.setattr(resnet_blocks.Layers, "convolution", convolution)


def same_padding_of_the_pool(patch):
    pool = nn.max_pool
    patch.setattr(nn, "max_pool", lambda x, window, strides, padding: pool(x, window, strides, "SAME"))


def no_pool(patch):
    patch.setattr(nn, "max_pool", lambda x, *args, **kwargs: x)


def strided_not_pooled(patch):
    patch.setattr(nn, "max_pool", lambda x, *args, **kwargs: x[:, ::2, ::2])


def first_stride(patch):
    """ResNet "v1": the stride is that of the first 1x1 convolution."""
    convolution, begun = resnet_blocks.Layers.convolution, {64}

    def moved(self, filters, size, stride, name):
        if name in ("conv1", "conv2"):
            stride = 1 if name == "conv2" or filters in begun else 2
            begun.add(filters)
        return convolution(self, filters, size, stride, name)

    patch.setattr(resnet_blocks.Layers, "convolution", moved)


def epsilon(patch):
    norm = nn.BatchNorm
    patch.setattr(nn, "BatchNorm", lambda **options: norm(**options | {"epsilon": 1e-3}))


def max_in_place_of_mean(patch):
    patch.setattr(nn, "avg_pool", nn.max_pool)


def stride_in_place_of_mean(patch):
    patch.setattr(CLIP, "shrunk", lambda x, factor: x[:, ::factor, ::factor])


def heads_of_half_the_width(patch):
    patch.setattr(CLIP, "HEAD_WIDTH", 32)


MISTAKES = {
    "padding of convolutions": (same_padding, ("basic", "bottleneck")),
    "padding of the pool": (same_padding_of_the_pool, ("bottleneck",)),
    "no pool": (no_pool, ("bottleneck",)),
    "a stride in place of the pool": (strided_not_pooled, ("basic",)),
    "stride of the first convolution": (first_stride, ("bottleneck",)),
    "epsilon": (epsilon, ("basic", "bottleneck", "clip")),
    "maximum, not mean": (max_in_place_of_mean, ("clip",)),
    "stride, not mean": (stride_in_place_of_mean, ("clip",)),
    "heads": (heads_of_half_the_width, ("clip",)),
}


@pytest.mark.parametrize(("mistake", "name"), [(mistake, n) for mistake, (_, names) in MISTAKES.items() for n in names])
def test_layouts_resnet_mistake_in_a_network_shows(mistake, name, monkeypatch):
    variables = read(name, 64)
    MISTAKES[mistake][0](monkeypatch)
    # The features are read in a trace that may be from before the mistake; the logits are not.
    assert apart(name, 64, variables)[0] > 10 * TOLERANCE


# Mistakes in which tensor goes where.


def swapped(first, second):
    """Exchanges two leaves wherever both are there and have one shape."""

    def change(variables):
        leaves = tree.by_name(variables)
        other = {}
        for name in leaves:
            if re.search(first, name):
                partner = re.sub(first, second, name)
                other |= {name: leaves[partner], partner: leaves[name]}
        assert other
        return tree.map_named(lambda name, leaf: other.get(name, leaf), variables)

    return change


def square(pattern, axes):
    """Exchanges two axes of kernels in which both are of one length, so that no shape tells."""

    def change(variables):
        names = [name for name, leaf in tree.by_name(variables).items() if re.search(pattern, name)]
        leaves = tree.by_name(variables)
        names = [name for name in names if leaves[name].shape[axes[0]] == leaves[name].shape[axes[1]]]
        assert names
        return tree.map_named(lambda name, leaf: leaf.swapaxes(*axes) if name in names else leaf, variables)

    return change


MISPLACED = {
    "scale and variance": (swapped(r"^params/(.*)/scale$", r"batch_stats/\1/var"), ("basic", "bottleneck", "clip")),
    "mean and bias": (swapped(r"^params/(.*norm\d?)/bias$", r"batch_stats/\1/mean"), ("basic", "bottleneck", "clip")),
    "square kernels": (square(r"block\d/conv\d/kernel$", (2, 3)), ("basic", "bottleneck", "clip")),
    "rows and columns": (square(r"conv\d?/kernel$", (0, 1)), ("basic", "bottleneck", "clip")),
    "one square kernel": (square(r"stage4_block0/conv2/kernel$", (2, 3)), ("basic", "bottleneck")),
    "square query": (square(r"pool/query/kernel$", (0, 1)), ("clip",)),
    "square values": (square(r"pool/value/kernel$", (0, 1)), ("clip",)),
    "query and key": (swapped(r"pool/query/", r"pool/key/"), ("clip",)),
    "norms of one block": (swapped(r"stage4_block0/norm1/", r"stage4_block0/norm2/"), ("basic", "bottleneck", "clip")),
}


@pytest.mark.parametrize(
    ("mistake", "name"), [(mistake, n) for mistake, (_, names) in MISPLACED.items() for n in names]
)
def test_layouts_resnet_tensor_in_the_wrong_place_shows(mistake, name):
    outputs = compiled(name)(MISPLACED[mistake][0](read(name, 64)), golden_weights.images(64))
    assert relative(outputs, answers()[f"{name}/64/logits"]) > 10 * TOLERANCE


@cache
def compiled(name):
    return jax.jit(build(name, 64)[0].apply)


def test_torchvision_resnet_square_fc_in_the_wrong_order_shows():
    # 64 features and 64 classes: the file's own product, [out, in], is the oracle.
    module = ResNet(full_blocks((1,), 64), 64, 64, large_images=True)
    layout, template = layouts_resnet.torchvision_resnet(module), like(module, 64)
    file = golden_weights.filled(mapping.shapes(layout, template))
    network = jp.Network.from_linen(module, mapping.read(layout, file, template))
    (features,) = jp.sites.read_jit(network, golden_weights.images(64), sites=("features",))
    outputs = np.asarray(features @ network.params["head"]["kernel"] + network.params["head"]["bias"])
    right, wrong = (features @ kernel + file["fc.bias"] for kernel in (file["fc.weight"].T, file["fc.weight"]))
    assert np.max(np.abs(outputs - right)) <= TOLERANCE * np.max(np.abs(right))
    assert np.max(np.abs(outputs - wrong)) > 0.1 * np.max(np.abs(right))


def test_torchvision_resnet_lays_out_a_compacted_network_by_its_own_shape():
    module = ResNet(full_blocks((3, 1), 8, True), 3, 8, True, large_images=True)
    template = like(module, 64)
    state = tree.map_named(lambda name, leaf: golden_weights.fill(name, leaf.shape), template)
    params = state.pop("params")
    gates = {group.name: np.ones(group.size, bool) for group in module.groups()}
    gates |= {"stage1_block1": np.array([False]), "stage2_block0/units2": np.arange(16) < 5}
    left, params, state = jp.structured.remove(module, params, state, gates)
    layout, variables = layouts_resnet.torchvision_resnet(left), {"params": params, **state}
    written = mapping.write(layout, variables)
    assert written["layer2.0.conv2.weight"].shape == (5, 16, 3, 3)
    assert written["layer2.0.conv3.weight"].shape == (64, 5, 1, 1)
    # Blocks keep their names.
    assert {name[:8] for name in written if name.startswith("layer1")} == {"layer1.0", "layer1.2"}
    jax.tree.map(np.testing.assert_array_equal, mapping.read(layout, written, variables), variables)
