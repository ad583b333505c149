"""Writes small files with PyTorch, for tests/tensor_files/test_goldens.py, which then needs no PyTorch.

Run it with a Python that has PyTorch and NumPy: ``python scripts/golden_tensor_files.py``.  It writes *.pth and *.pt to
tests/tensor_files/golden.  The numbers of a tensor follow from its name in the file, by the rule ``numbers``, which the
test has as well; so only names, shapes and kinds are written there.  One file there is not written by it, but checked:
written.pth, which the test compares with what ``jaxprune.tensor_files.write`` makes of the same tensors.
"""

import argparse
import io
import math
import warnings
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

TARGET = Path(__file__).parents[1] / "tests/tensor_files/golden"
# Those of ``kinds`` that written.pth has.
WRITTEN = (
    *("base", "rows", "column", "transposed", "expanded", "half", "double", "truth"),
    *("int8", "int16", "int32", "int64", "uint8", "scalar", "empty", "parameter"),
)


def numbers(name: str, *shape: int) -> torch.Tensor:
    """The numbers of the tensor of that name: multiples of 1/256 below 1, which every kind of float has."""
    steps = (np.arange(math.prod(shape)) * 37 + zlib.crc32(name.encode())) % 509 - 254
    return torch.from_numpy((steps / 256).astype(np.float32).reshape(shape))


def whole(name: str, *shape: int) -> torch.Tensor:
    """Whole numbers from the same rule."""
    return (numbers(name, *shape) * 256).to(torch.int64)


class Block(nn.Module):
    """A convolution without a bias, and a norm with statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1, bias=False)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Applies both."""
        return self.bn(self.conv(images))


class Network(nn.Module):
    """Parameters, buffers, blocks, a list and a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Block()
        self.proj = nn.Parameter(torch.zeros(3, 2))
        self.register_buffer("order", torch.zeros(4, dtype=torch.int64))
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.head = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        self.width = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Uses every part."""
        features = self.visual(images).mean((2, 3)) @ self.proj
        for layer in self.layers:
            features = layer(features)
        return self.head(features) + self.order[0]


def filled(prefix: str = "") -> Network:
    """A network whose numbers follow from its names in the file."""
    network = Network().eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            rule = numbers if value.is_floating_point() else whole
            value.copy_(rule(prefix + name, *value.shape))
    return network


def checkpoint() -> dict[str, Any]:
    """What a training script saves: a state dictionary among other things."""
    state = filled("state_dict.").state_dict()
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.5, momentum=0.9)
    parameter.grad = torch.zeros(2)
    optimizer.step()
    optimizer.state[parameter]["momentum_buffer"] = numbers("optimizer.state.0.momentum_buffer", 2)
    return {
        "epoch": 3,
        "arch": "resnet50",
        "best_acc1": 0.625,
        "history": [0.5, 0.25],
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
    }


def quantised() -> torch.Tensor:
    """A tensor of a kind that is deprecated; files have it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def kinds() -> dict[str, Any]:
    """Every kind of number, and views of every sort."""
    base = numbers("base", 4, 6)
    attributed = nn.Parameter(numbers("attributed", 2))
    attributed.note = "an attribute"
    return {
        "base": base,
        "rows": base[1:3, ::2],
        "column": base[:, 5],
        "transposed": base.T,
        "expanded": numbers("expanded", 1, 3).expand(4, 3),
        "half": numbers("half", 2, 3).half(),
        "double": numbers("double", 2, 3).double(),
        "brain": numbers("brain", 2, 3).bfloat16(),
        "brain_transposed": numbers("brain_transposed", 3, 2).bfloat16().T,
        "truth": whole("truth", 5) > 0,
        "int8": (whole("int8", 5) // 2).to(torch.int8),
        "int16": whole("int16", 5).to(torch.int16),
        "int32": whole("int32", 5).to(torch.int32),
        "int64": whole("int64", 5),
        "uint8": whole("uint8", 5).abs().to(torch.uint8),
        "scalar": numbers("scalar"),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(numbers("parameter", 2)),
        "attributed": attributed,
        "listed": [numbers("listed.0", 2), {"deep": numbers("listed.1.deep", 2)}],
        "ordered": OrderedDict(a=numbers("ordered.a", 1)),
        "sparse": torch.eye(3).to_sparse(),
        "quantised": quantised(),
        "complex": torch.ones(3, dtype=torch.complex64),
        "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
    }


def save_script(network: torch.jit.ScriptModule, path: Path) -> None:
    """Saves TorchScript without the notes for debuggers, which name folders of this machine; it loads without them."""
    stream = io.BytesIO()
    torch.jit.save(network, stream)
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            if not member.filename.endswith(".debug_pkl"):
                plain = zipfile.ZipInfo(member.filename)
                plain.compress_type = member.compress_type
                target.writestr(plain, source.read(member))
    torch.jit.load(path)


def check_written() -> None:
    """Checks that PyTorch reads what jaxprune wrote, as weights only and mapped into memory."""
    expected = {name: value.detach() for name, value in kinds().items() if name in WRITTEN}
    for mapped in (False, True):
        found = torch.load(TARGET / "written.pth", weights_only=True, mmap=mapped)
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name].dtype == value.dtype, name
            assert found[name].is_contiguous(), name
            assert torch.equal(found[name], value), name


def main() -> None:
    """Writes all files but one, and checks that one."""
    check_written()
    TARGET.mkdir(exist_ok=True)
    torch.save(checkpoint(), TARGET / "checkpoint.pth")
    torch.save(checkpoint(), TARGET / "checkpoint_protocol_4.pth", pickle_protocol=4)
    torch.save(checkpoint(), TARGET / "checkpoint_legacy.pth", _use_new_zipfile_serialization=False)
    only_new = {f"uint{bits}": whole(f"uint{bits}", 3).abs().to(getattr(torch, f"uint{bits}")) for bits in (16, 32, 64)}
    torch.save(kinds() | only_new, TARGET / "kinds.pth")
    torch.save(kinds(), TARGET / "kinds_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(numbers("", 3), TARGET / "alone.pth")
    dino = {
        side: {f"module.backbone.{k}": v for k, v in filled(f"{side}.module.backbone.").state_dict().items()}
        for side in ("student", "teacher")
    }
    torch.save({**dino, "epoch": 100, "args": argparse.Namespace(arch="vit_small")}, TARGET / "dino.pth")
    torch.save(filled(), TARGET / "module.pth")
    with warnings.catch_warnings():
        # TorchScript is deprecated; the files it wrote are not.
        warnings.simplefilter("ignore")
        save_script(torch.jit.script(filled().half()), TARGET / "scripted.pt")
        save_script(torch.jit.trace(filled(), torch.ones(1, 2, 2, 2)), TARGET / "traced.pt")


if __name__ == "__main__":
    main()
