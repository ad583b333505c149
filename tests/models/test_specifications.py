"""Specifications: written as JSON and read back, whatever was removed; and what cannot be read is named."""

import json

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.models.resnet import BlockShape, ResNet, full_blocks
from jaxprune.structured import Declared, Specification
from tests.structured import networks

FULL = {
    "cifar": jp.models.resnet_cifar(20, width=4),
    "keras": jp.models.resnet_cifar(56, keras=True),
    "strided": jp.models.resnet_cifar(20, width=4, stem_stride=2),
    "imagenet": jp.models.resnet(18, width=8),
    "bottleneck": jp.models.resnet(50, width=8),
    "inverted": jp.models.efficientnet_lite("lite1", 10),
    "vit": jp.models.vit("ti"),
    "blocks": jp.models.vit("s", layers="blocks"),
    "swin": jp.models.swin_v2("t"),
    "swin of blocks": jp.models.swin_v2(depths=(2, 3), width=32, heads=(2, 8), layers="blocks"),
}


def through_json(module):
    return jp.models.specification(json.loads(json.dumps(module.describe())))


@pytest.mark.parametrize("name", FULL)
def test_specification_reads_what_describe_wrote_whatever_was_removed(name):
    module = FULL[name]
    assert isinstance(module, Specification)
    assert through_json(module) == module
    for seed in range(4):
        left = module.without(networks.random_gates(module.groups(), seed))
        assert left != module
        assert through_json(left) == left
        assert through_json(left).groups() == left.groups()
        # Equal shapes share their compiled programs.
        assert hash(through_json(left)) == hash(left)


def test_describe_has_a_line_for_every_block_of_a_residual_network():
    module = ResNet(full_blocks((3, 1), 4), 3, 4, keras=True)
    gates = {"stage1_block1": np.array([False]), "stage2_block0/units1": np.arange(8) < 5}
    assert module.without(gates).describe() == {
        "family": "resnet",
        "classes": 3,
        "width": 4,
        "bottleneck": False,
        "large_images": False,
        "keras": True,
        "blocks": {"stage1_block0": [4], "stage1_block2": [4], "stage2_block0": [5]},
    }
    assert module.blocks[-1] == BlockShape(2, 0, (8,))


def test_describe_has_heads_and_hidden_units_of_a_transformer():
    module = jp.models.vit(patch=2, image=4, classes=3, width=4, heads=2, depth=3)
    gates = {
        "block0/attention": np.array([False]),
        "block1/heads": np.array([True, False]),
        "block1/units": np.arange(16) < 7,
        "block2/attention": np.array([False]),
        "block2/mlp": np.array([False]),
    }
    left = module.without(gates)
    assert left.describe()["blocks"] == {"block0": {"heads": 0, "hidden": 16}, "block1": {"heads": 1, "hidden": 7}}
    assert (left.depth, left.heads) == (2, 1)
    assert [group.name for group in left.groups()] == [
        "block0/units",
        "block0/mlp",
        "block1/heads",
        "block1/units",
        "block1/attention",
        "block1/mlp",
    ]


def test_describe_writes_the_stride_of_a_stem_where_it_is_not_one():
    plain, strided = jp.models.resnet_cifar(8, width=4), jp.models.resnet_cifar(8, width=4, stem_stride=2)
    assert strided.describe() == plain.describe() | {"stem_stride": 2}
    assert "stem_stride" not in plain.describe()
    assert jp.models.specification(plain.describe()).stem_stride == 1


def test_describe_names_the_stages_of_a_windowed_transformer():
    module = jp.models.swin_v2(depths=(1, 2), classes=3, width=4, heads=(1, 4), window=2)
    gates = {
        "stage2_block0/attention": np.array([False]),
        "stage2_block0/mlp": np.array([False]),
        "stage2_block1/heads": np.array([True, False, True, False]),
        "stage1_block0/units": np.arange(16) < 7,
    }
    assert module.without(gates).describe() == {
        "family": "swin_v2",
        "patch": 4,
        "window": 2,
        "classes": 3,
        "width": 4,
        "head_widths": [4, 2],
        "layers": "branches",
        "blocks": {"stage1_block0": {"heads": 1, "hidden": 7}, "stage2_block1": {"heads": 2, "hidden": 32}},
    }
    assert module.without(gates).depths == (1, 1)
    heads = next(group for group in module.groups() if group.name == "stage2_block1/heads")
    assert (heads.size, heads.axis, heads.sites) == (4, 3, ("stage2/block1/heads",))


def test_describe_has_inner_channels_and_stages_of_an_inverted_residual_network():
    module = networks.INVERTED
    gates = {"stage2_block1": np.array([False]), "stage2_block2/units": np.arange(7) < 3}
    assert module.without(gates).describe() == {
        "family": "efficientnet_lite",
        "classes": 3,
        "stem": 4,
        "top": 6,
        "dropout": 0.0,
        "stages": [{"filters": 3, "kernel": 3, "stride": 1}, {"filters": 4, "kernel": 5, "stride": 2}],
        "blocks": {"stage1_block0": 0, "stage2_block0": 6, "stage2_block2": 3},
    }
    assert [group.name for group in module.groups() if group.is_layer] == ["stage2_block1", "stage2_block2"]


def test_groups_of_a_residual_network_are_units_and_inner_blocks():
    groups = {group.name: group for group in jp.models.resnet_cifar(20, keras=True).groups()}
    layers = [name for name, group in groups.items() if group.is_layer]
    assert layers == [f"stage{stage}_block{number}" for stage in (1, 2, 3) for number in (1, 2)]
    assert {groups[name].stage for name in layers} == {"stage1", "stage2", "stage3"}
    units = {name: group.size for name, group in groups.items() if not group.is_layer}
    assert units == {f"stage{stage}_block{number}/units1": 8 * 2**stage for stage in (1, 2, 3) for number in (0, 1, 2)}
    assert sum(member.leaf.endswith("conv1/bias") for member in groups["stage1_block0/units1"].members) == 1
    bottleneck = [group.name for group in FULL["bottleneck"].groups() if group.name.startswith("stage4_block1")]
    assert bottleneck == ["stage4_block1/units1", "stage4_block1/units2", "stage4_block1"]


def test_groups_of_a_transformer_are_heads_units_and_layers():
    branches = {group.stage for group in FULL["vit"].groups() if group.is_layer}
    blocks = [group for group in FULL["blocks"].groups() if group.is_layer]
    assert branches == {"attention", "mlp"}
    assert {group.stage for group in blocks} == {"blocks"}
    assert [group.name for group in blocks] == [f"block{number}" for number in range(12)]
    assert all(len(group.sites) == 2 for group in blocks)
    heads = next(group for group in FULL["blocks"].groups() if group.name == "block3/heads")
    assert (heads.size, heads.axis, {member.each for member in heads.members}) == (6, 2, {64})


@pytest.mark.parametrize("name", FULL)
def test_groups_have_leaves_of_the_network_as_members(name):
    module = FULL[name]
    size = 32 if name in ("cifar", "keras", "strided") else 224
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    params = variables.pop("params")
    leaves = jp.tree.by_name(params) | jp.tree.by_name(variables)
    for group in module.groups():
        for member in group.members:
            if member.axis is None:
                assert any(leaf.startswith(f"{member.leaf}/") for leaf in leaves)
            else:
                assert leaves[member.leaf].shape[member.axis] == group.size * member.each


def test_declared_network_by_hand_is_described_too():
    values = json.loads(json.dumps(networks.MLP.describe()))
    assert values["family"] == "declared"
    assert Declared.described(values, networks.mlp_apply) == networks.MLP
    assert isinstance(networks.MLP, Specification)


def changed(module, **changes):
    return module.describe() | changes


def without(values, key):
    return {name: value for name, value in values.items() if name != key}


TINY, VIT = ResNet(full_blocks((2, 1), 4), 3, 4), jp.models.vit(**networks.VIT)
BAD = {
    "family": (
        changed(TINY, family="vgg"),
        r"specification: family: unknown value 'vgg'.*Known: clip_resnet, efficientnet_lite, resnet, swin_v2, vit",
    ),
    "no family": (without(TINY.describe(), "family"), r"specification: family: unknown value 'None'"),
    "declared": (networks.MLP.describe(), r"specification: family: unknown value 'declared'"),
    "no width": (
        without(TINY.describe(), "width"),
        r"specification: expected what describe\(\) of a resnet.*KeyError",
    ),
    "no blocks": (without(TINY.describe(), "blocks"), r"specification: expected what describe\(\) of a resnet writes"),
    "no patch": (
        without(VIT.describe(), "patch"),
        r"specification: expected what describe\(\) of a vit.*KeyError",
    ),
    "block name": (changed(TINY, blocks={"block": [4]}), r"specification: expected what describe\(\) of a resnet"),
    "other block name": (changed(TINY, blocks={"stage1/block0": [4]}), r"specification: expected .*stage1_block0"),
    "a number": (changed(TINY, blocks={"stage1_block0": 4}), r"specification: expected what describe\(\).*TypeError"),
    "a list": (changed(TINY, blocks=["stage1_block0"]), r"specification: expected what describe\(\).*AttributeError"),
    "too much": (changed(TINY, depth=3), r"specification: expected \{.*Write it anew"),
    "no windows": (
        without(FULL["swin"].describe(), "window"),
        r"specification: expected what describe\(\) of a swin_v2.*KeyError",
    ),
    "no heads": (changed(VIT, blocks={"block0": {"hidden": 3}}), r"specification: expected what describe\(\) of a vit"),
}


@pytest.mark.parametrize("name", BAD)
def test_specification_names_what_describe_did_not_write(name):
    values, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        jp.models.specification(values)
