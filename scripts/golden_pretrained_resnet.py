"""Writes what residual networks of PyTorch's libraries answer, for tests and benchmark, which then need no PyTorch.

Run it with a Python that has PyTorch, torchvision, open_clip and NumPy: ``python scripts/golden_pretrained_resnet.py``.
Weights and images are those of ``golden_weights``, so only names, shapes and answers are stored, under
tests/models/golden:

    resnet_cases.json    of every network of reduced depth: its settings, factors of some weights, and for the first
                         side (where they depend on it: for every side) names and shapes
    resnet_answers.npz   "network/side/logits" and "network/side/features" of these, float32
    resnet_full.json     of every network of full depth: the hash of names and shapes, factors of some weights, and
                         for each side 32 outputs of the first image; CLIP's positions of the second are resampled
"""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_weights import fill, filled, images

# Where torchvision's compiled operations do not fit PyTorch, it cannot be imported unless their names are known.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from open_clip.modified_resnet import ModifiedResNet  # noqa: E402
from torchvision.models import resnet  # noqa: E402

TARGET = Path(__file__).parents[1] / "tests/models/golden"
KINDS = {"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}
# Factors of weights, by regular expressions of names: so the attention of CLIP's pool looks at many places, not at one.
QUIET = {r"visual\.layer.*\.bn3\.weight": 1 / 4}
POSITIONS = "visual.attnpool.positional_embedding"
QUERY = r"visual\.attnpool\.q_proj\..*"
# Of the tests: one stage has two blocks.  Sizes that are odd, and no multiple of 32, where the source takes them.
REDUCED: dict[str, dict[str, Any]] = {
    "basic": {"depths": [1, 2, 1, 1], "classes": 7, "sides": [64, 97]},
    "bottleneck": {"depths": [2, 1, 1, 1], "classes": 7, "sides": [64, 97]},
    "clip": {"depths": [1, 1, 1, 2], "classes": 20, "sides": [64, 96], "width": 8, "scaled": QUIET | {QUERY: 1 / 4}},
}
# Of the benchmark: as they are published.
FULL: dict[str, dict[str, Any]] = {
    "torchvision/resnet18": {"depths": [2, 2, 2, 2], "classes": 1000, "sides": [224, 193], "kind": "basic"},
    "torchvision/resnet34": {"depths": [3, 4, 6, 3], "classes": 1000, "sides": [224, 193], "kind": "basic"},
    "torchvision/resnet50": {"depths": [3, 4, 6, 3], "classes": 1000, "sides": [224, 193], "kind": "bottleneck"},
    "torchvision/resnet101": {"depths": [3, 4, 23, 3], "classes": 1000, "sides": [224, 193], "kind": "bottleneck"},
    "clip/resnet50": {
        "depths": [3, 4, 6, 3],
        "classes": 1024,
        "sides": [224, 288],
        "width": 64,
        "kind": "clip",
        "scaled": QUIET | {QUERY: 1 / 16},
    },
}
FIRST = 32


def make(case: dict[str, Any], side: int) -> torch.nn.Module:
    """Makes the network; that of CLIP for images of one size, under the name that it has inside the whole."""
    if case["kind"] != "clip":
        return resnet.ResNet(KINDS[case["kind"]], case["depths"], num_classes=case["classes"])
    heads = case["width"] * 32 // 64
    tower = ModifiedResNet(case["depths"], case["classes"], heads, image_size=side, width=case["width"])
    return torch.nn.ModuleDict({"visual": tower})


def shapes(network: torch.nn.Module) -> dict[str, list[int]]:
    """Lists the names and shapes of what is stored of a network."""
    return {name: list(value.shape) for name, value in network.state_dict().items()}


def answers(
    network: torch.nn.Module, side: int, scaled: dict[str, float], resampled: list[int] | None = None
) -> dict[str, np.ndarray]:
    """Fills a network, and evaluates it and the input of its last layer.

    Args:
      network: the network.
      side: height and width of the images.
      scaled: factors of some weights.
      resampled: the shape of the positions that are filled, where those of the network are resampled from them.
    """
    weights = filled(shapes(network))
    if resampled:
        weights[POSITIONS] = resample(fill(POSITIONS, resampled), weights[POSITIONS].shape)
    for pattern, factor in scaled.items():
        weights |= {name: value * np.float32(factor) for name, value in weights.items() if re.fullmatch(pattern, name)}
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    network.eval()
    tower = network["visual"] if isinstance(network, torch.nn.ModuleDict) else network
    seen: list[torch.Tensor] = []
    if isinstance(tower, ModifiedResNet):
        # Its last projection is applied inside a function of PyTorch: without it, there are the features.
        pool, batch = tower.attnpool, torch.from_numpy(images(side)).permute(0, 3, 1, 2)
        with torch.no_grad():
            logits = tower(batch)
            width = pool.c_proj.in_features
            pool.c_proj = torch.nn.Linear(width, width)
            pool.c_proj.weight.copy_(torch.eye(width))
            pool.c_proj.bias.zero_()
            features = tower(batch)
    else:
        tower.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            logits = tower(torch.from_numpy(images(side)).permute(0, 3, 1, 2))
        (features,) = seen
    return {"logits": logits.numpy(), "features": features.numpy()}


def resample(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resamples positions, that of the mean apart, as timm does for vision transformers."""
    old, new = (math.isqrt(count - 1) for count in (len(table), shape[0]))
    grid = torch.from_numpy(table[1:]).reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (new, new), mode="bicubic", antialias=True)
    return np.concatenate([table[:1], grid.permute(0, 2, 3, 1).reshape(new * new, -1).numpy()])


def main() -> None:
    """Makes, fills and evaluates all networks."""
    TARGET.mkdir(exist_ok=True)
    cases, arrays = {}, {}
    for name, given in REDUCED.items():
        case = {"kind": name, **given}
        sides = case["sides"] if name == "clip" else case["sides"][:1]
        cases[name] = case | {"shapes": {side: shapes(make(case, side)) for side in sides}}
        for side in case["sides"]:
            found = answers(make(case, side), side, case.get("scaled", {}))
            arrays |= {f"{name}/{side}/{what}": value for what, value in found.items()}
    write("resnet_cases.json", cases)
    np.savez_compressed(TARGET / "resnet_answers.npz", **arrays)
    full: dict[str, Any] = {}
    for name, case in FULL.items():
        scaled, first = case.get("scaled", {}), shapes(make(case, case["sides"][0]))
        full[name] = {"scaled": scaled, "shapes": digest(first), "outputs": {}}
        for side in case["sides"]:
            found = answers(make(case, side), side, scaled, first.get(POSITIONS))
            full[name]["outputs"][side] = found["logits"][0, :FIRST].tolist()
    write("resnet_full.json", full)


def write(name: str, values: dict[str, Any]) -> None:
    """Writes JSON, a line for every network."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
    (TARGET / name).write_text(f"{{\n{lines}\n}}\n")


def digest(found: dict[str, list[int]]) -> str:
    """The first digits of the SHA-256 of names and shapes, without those of counters, in the order of the names."""
    kept = [(name, shape) for name, shape in sorted(found.items()) if not name.endswith("num_batches_tracked")]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
