"""Files that PyTorch wrote (scripts/golden_tensor_files.py), number by number."""

import functools
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from jaxprune.tensor_files import Placeholder, read, write

GOLDEN = Path(__file__).parent / "golden"
NETWORK = {
    "proj": (3, 2),
    "order": (4,),
    "visual.conv.weight": (3, 2, 1, 1),
    **{f"visual.bn.{name}": (3,) for name in ("weight", "bias", "running_mean", "running_var")},
    "visual.bn.num_batches_tracked": (),
    **{f"layers.{layer}.weight": (2, 2) for layer in (0, 1)},
    **{f"layers.{layer}.bias": (2,) for layer in (0, 1)},
    "head.0.weight": (3, 2),
    "head.0.bias": (3,),
}
WHOLE = ("order", "visual.bn.num_batches_tracked")


def numbers(name, *shape):
    steps = (np.arange(math.prod(shape)) * 37 + zlib.crc32(name.encode())) % 509 - 254
    return (steps / 256).astype(np.float32).reshape(shape)


def whole(name, *shape):
    return (numbers(name, *shape) * 256).astype(np.int64)


def network(prefix="", kind=np.float32):
    return {
        f"{prefix}{name}": whole(f"{prefix}{name}", *shape)
        if name in WHOLE
        else numbers(f"{prefix}{name}", *shape).astype(kind)
        for name, shape in NETWORK.items()
    }


def kinds():
    base = numbers("base", 4, 6)
    return {
        "base": base,
        "rows": base[1:3, ::2],
        "column": base[:, 5],
        "transposed": base.T,
        "expanded": np.tile(numbers("expanded", 1, 3), (4, 1)),
        "half": numbers("half", 2, 3).astype(np.float16),
        "double": numbers("double", 2, 3).astype(np.float64),
        "brain": numbers("brain", 2, 3),
        "brain_transposed": numbers("brain_transposed", 3, 2).T,
        "truth": whole("truth", 5) > 0,
        "int8": (whole("int8", 5) // 2).astype(np.int8),
        "int16": whole("int16", 5).astype(np.int16),
        "int32": whole("int32", 5).astype(np.int32),
        "int64": whole("int64", 5),
        "uint8": np.abs(whole("uint8", 5)).astype(np.uint8),
        "scalar": numbers("scalar"),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": numbers("parameter", 2),
        "attributed": numbers("attributed", 2),
        "listed.0": numbers("listed.0", 2),
        "listed.1.deep": numbers("listed.1.deep", 2),
        "ordered.a": numbers("ordered.a", 1),
    }


CHECKPOINT = {
    **network("state_dict."),
    "optimizer.state.0.momentum_buffer": numbers("optimizer.state.0.momentum_buffer", 2),
}
NEW = {f"uint{bits}": np.abs(whole(f"uint{bits}", 3)).astype(getattr(np, f"uint{bits}")) for bits in (16, 32, 64)}
FILES = {
    "checkpoint.pth": ("pytorch", CHECKPOINT),
    "checkpoint_protocol_4.pth": ("pytorch", CHECKPOINT),
    "checkpoint_legacy.pth": ("pytorch-legacy", CHECKPOINT),
    "kinds.pth": ("pytorch", kinds() | NEW),
    "kinds_legacy.pth": ("pytorch-legacy", kinds()),
    "alone.pth": ("pytorch", {"": numbers("", 3)}),
    "dino.pth": (
        "pytorch",
        network("teacher.module.backbone.") | network("student.module.backbone."),
    ),
    "module.pth": ("pytorch", network()),
    "scripted.pt": ("torchscript", network(kind=np.float16)),
    "traced.pt": ("torchscript", network()),
}


# Checked with PyTorch by the script.
WRITTEN = (
    *("base", "rows", "column", "transposed", "expanded", "half", "double", "truth"),
    *("int8", "int16", "int32", "int64", "uint8", "scalar", "empty", "parameter"),
)


@functools.cache
def opened(name):
    return read(GOLDEN / name)


@pytest.mark.parametrize("name", FILES)
def test_read_gives_every_tensor_as_pytorch_saved_it(name):
    kind, expected = FILES[name]
    file = opened(name)
    assert file.format == kind
    found = set(file.tensors) - set(file.other)
    assert found == set(expected)
    for key, value in expected.items():
        array = file.tensors[key]
        assert type(array) is np.ndarray, key
        assert (array.dtype, array.shape) == (value.dtype, value.shape), key
        assert array.tobytes() == value.tobytes(), key
        assert not array.flags.writeable, key


def test_read_gives_views_that_share_the_bytes_of_the_file():
    tensors = opened("kinds.pth").tensors
    assert all(np.shares_memory(tensors["base"], tensors[name]) for name in ("rows", "column", "transposed"))
    assert tensors["expanded"].strides == (0, 4)


@pytest.mark.parametrize("name", ["checkpoint.pth", "checkpoint_protocol_4.pth", "checkpoint_legacy.pth"])
def test_read_gives_what_lies_beside_the_tensors(name):
    other = opened(name).other
    assert (other["epoch"], other["arch"], other["best_acc1"], other["history"]) == (3, "resnet50", 0.625, (0.5, 0.25))
    assert other["optimizer.param_groups.0.lr"] == 0.5
    assert isinstance(other["args"], Placeholder)
    assert other["args"].name == "argparse.Namespace"
    assert other["args"].state == {"arch": "vit_small", "patch_size": 16}
    assert other["args.patch_size"] == 16


def test_read_keeps_numbers_and_classes_of_modules():
    assert opened("scripted.pt").other["width"] == 3
    assert opened("scripted.pt").other["visual"].name == "__torch__.Block"
    assert opened("module.pth").other["layers"].name == "torch.nn.modules.container.ModuleList"


@pytest.mark.parametrize("name", ["kinds.pth", "kinds_legacy.pth"])
@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("sparse", "only PyTorch reads"),
        ("quantised", "only PyTorch reads"),
        ("complex", "NumPy has not"),
        ("conjugated", "conjugated"),
    ],
)
def test_read_refuses_a_tensor_that_cannot_be_had_when_asked_for(name, key, why):
    file = opened(name)
    assert key in file.tensors
    assert why in file.other[key].reason
    with pytest.raises(ValueError, match=rf"{name}: expected a tensor '{key}', but it is .*{why}.* Save it"):
        file.tensors[key]


def test_read_says_that_an_object_or_an_unknown_name_is_no_tensor():
    file = opened("checkpoint.pth")
    assert "args" not in file.tensors
    with pytest.raises(ValueError, match=r"'args', but it is no tensor, but an object made by argparse\.Namespace"):
        file.tensors["args"]
    with pytest.raises(KeyError):
        file.tensors["state_dict.fc.weight"]


def test_write_makes_the_bytes_that_pytorch_read(tmp_path):
    write(tmp_path / "new.pth", {name: kinds()[name] for name in WRITTEN})
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(GOLDEN / "written.pth") as checked:
        assert new.namelist() == checked.namelist()
        for name in new.namelist():
            assert new.read(name) == checked.read(name), name
