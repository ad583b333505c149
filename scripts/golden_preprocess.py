"""Writes what torchvision's evaluation transforms make of images, for tests/data/test_preprocessing.py.

Run it with a Python that has PyTorch, torchvision, Pillow and NumPy: ``python scripts/golden_preprocess.py``.  It
writes tests/data/golden/preprocess.npz: for every transform and image of tests/data/images.py the SHA-256 of the
bytes after resize and crop, then that of the normalised float32 [h, w, 3]; the files that were decoded; and every 14th
pixel of what the transforms of tensors make of the smooth ones.
"""

import hashlib
import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

# Where torchvision's compiled operations do not fit PyTorch, it cannot be imported unless their names are known.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from torchvision import transforms  # noqa: E402
from torchvision.transforms import InterpolationMode  # noqa: E402

from tests.data import pictures  # noqa: E402

TARGET = ROOT / "tests/data/golden/preprocess.npz"


def sizes(name: str) -> transforms.Compose:
    """Makes the part of a transform before the tensor."""
    resize, crop, interpolation, _, _ = pictures.TRANSFORMS[name]
    steps = []
    if resize is not None:
        steps.append(transforms.Resize(resize, InterpolationMode(interpolation), antialias=True))
    if crop is not None:
        steps.append(transforms.CenterCrop(crop))
    return transforms.Compose(steps)


def digests(name: str, picture: Image.Image) -> np.ndarray:
    """Applies a transform to an image, as ``ImageFolder`` loads it."""
    _, _, _, mean, std = pictures.TRANSFORMS[name]
    cut = sizes(name)(picture.convert("RGB"))
    numbers = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])(cut)
    floats = np.ascontiguousarray(numbers.permute(1, 2, 0).numpy())
    found = [hashlib.sha256(data.tobytes()).digest() for data in (np.asarray(cut), floats)]
    return np.frombuffer(b"".join(found), np.uint8)


def main() -> None:
    """Makes the images, and stores what became of them."""
    made, files = pictures.made(), pictures.files()
    arrays = {f"file/{name}": np.frombuffer(data, np.uint8) for name, data in files.items()}
    opened = {name: Image.open(io.BytesIO(data)) for name, data in files.items()}
    for transform in pictures.TRANSFORMS:
        for name, picture in {**made, **opened}.items():
            arrays[f"{transform}/{name}"] = digests(transform, picture)
        for name, picture in pictures.smooth_ones().items():
            tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            arrays[f"tensor/{transform}/{name}"] = sizes(transform)(tensor).permute(1, 2, 0).numpy()[::14, ::14]
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, **arrays)


if __name__ == "__main__":
    main()
