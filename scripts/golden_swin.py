"""Writes what torchvision's Swin-V2 answers, for tests/models/test_swin.py, which then needs no PyTorch.

Run it with a Python that has PyTorch, torchvision and NumPy: ``python scripts/golden_swin.py``.  It writes
tests/models/golden/swin_v2.npz: the weights of a tiny network under torchvision's names, in float16 (they are multiples
of 1/256), images, and for each of them the outputs and the normalised map of the last stage, computed in float64.
"""

import math
from pathlib import Path

import numpy as np
import torch

# Where torchvision's compiled operations do not fit PyTorch, it cannot be imported unless their names are known.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision.models import swin_transformer  # noqa: E402

TARGET = Path(__file__).parents[1] / "tests/models/golden/swin_v2.npz"
SETTINGS = {"patch_size": [2, 2], "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}
# Heights and widths: whole windows; padded maps of two shapes; one window high and three wide; a last patch cut off.
SIZES = ((16, 16), (20, 28), (8, 24), (23, 19))


def make() -> torch.nn.Module:
    """Makes the network anew: one that has seen a map of a single window stops shifting for good."""
    network = swin_transformer.SwinTransformer(
        **SETTINGS,
        num_classes=3,
        block=swin_transformer.SwinTransformerBlockV2,
        downsample_layer=swin_transformer.PatchMergingV2,
    )
    return network.double().eval()


def draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draws a weight: scales of the attention on both sides of their bound, scales of norms about 1."""
    if name.endswith("logit_scale"):
        return np.linspace(1.5, 5.0, math.prod(shape)).reshape(shape).astype(np.float16)
    values = rng.integers(-127, 128, shape) / 256
    return (values + ("norm" in name and name.endswith("weight"))).astype(np.float16)


def main() -> None:
    """Draws the weights and the images, and stores them with what the network answers."""
    rng = np.random.default_rng(0)
    counted = {name: value.shape for name, value in make().named_parameters()}
    weights = {name: draw(name, tuple(shape), rng) for name, shape in counted.items()}
    arrays = {f"weights/{name}": value for name, value in weights.items()}
    for height, width in SIZES:
        images = (rng.integers(0, 256, (2, height, width, 3)) / 256).astype(np.float16)
        network, seen = make(), []
        network.load_state_dict({name: torch.tensor(value).double() for name, value in weights.items()}, strict=False)
        network.norm.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        with torch.no_grad():
            outputs = network(torch.tensor(images).double().permute(0, 3, 1, 2))
        case = f"{height}x{width}"
        arrays |= {f"images/{case}": images, f"outputs/{case}": outputs.numpy(), f"map/{case}": seen[0].numpy()}
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, **arrays)


if __name__ == "__main__":
    main()
