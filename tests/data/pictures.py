"""Images of noise in every mode of bytes and in awkward sizes, the same everywhere, and the transforms for them.

scripts/golden_preprocess.py makes them too, in a Python that has torchvision.
"""

import io

import numpy as np
from PIL import Image

# resize, crop, interpolation, mean, std; resize may be (height, width).
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TRANSFORMS = {
    "256-224-bilinear": (256, 224, "bilinear", *IMAGENET),
    "232-224-bilinear": (232, 224, "bilinear", *IMAGENET),
    "256-224-bicubic": (256, 224, "bicubic", *IMAGENET),
    "224-224-bicubic": (224, 224, "bicubic", *CLIP),
    "248-224-bicubic": (248, 224, "bicubic", *HALF),
    "260-256-bicubic": (260, 256, "bicubic", *IMAGENET),
    "crop-51": (None, 51, "bilinear", *IMAGENET),
    "pair-40x57": ((40, 57), None, "bicubic", *IMAGENET),
}

# height, width, mode
SIZES = (
    (375, 500, "RGB"),
    (500, 333, "RGB"),
    (1, 40, "RGB"),
    (37, 1, "RGB"),
    (1, 1, "RGB"),
    (224, 224, "RGB"),
    (256, 256, "RGB"),
    (257, 255, "RGB"),
    (31, 517, "RGB"),
    (50, 53, "RGB"),
    (233, 512, "RGB"),
    (90, 101, "L"),
    (80, 71, "P"),
    (101, 99, "RGBA"),
    (45, 62, "LA"),
    (64, 49, "CMYK"),
    (65, 43, "1"),
)
CHANNELS = {"RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2}


def noise(seed: int, *shape: int) -> np.ndarray:
    """Bytes from the raw bits of a generator, which no version of NumPy changes."""
    count = int(np.prod(shape))
    return np.random.Philox(key=seed).random_raw(-(-count // 8)).view(np.uint8)[:count].reshape(shape)


def made() -> dict[str, Image.Image]:
    """The images, by size and mode."""
    pictures = {}
    for seed, (height, width, mode) in enumerate(SIZES):
        data = noise(seed, height * width * CHANNELS.get(mode, 1)).tobytes()
        pictures[f"{height}x{width}-{mode}"] = (
            Image.frombytes("L", (width, height), data).convert("1")
            if mode == "1"
            else Image.frombytes(mode, (width, height), data)
        )
    pictures["80x71-P"].putpalette(noise(99, 768).tobytes())
    return pictures


def smooth(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Bytes of an image without edges, black or white."""
    small = Image.fromarray(64 + noise(seed, 5, 7, 4) // 2)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))[..., :channels]


def smooth_ones() -> dict[str, np.ndarray]:
    """Images that no kernel takes beyond black or white, where Pillow clips twice, and PyTorch once."""
    sizes = ((375, 500), (500, 333), (257, 255), (31, 517))
    return {f"{height}x{width}": smooth(seed, height, width) for seed, (height, width) in enumerate(sizes)}


def files() -> dict[str, bytes]:
    """Files as a camera or a prepress department leaves them; their bytes depend on the version of the encoder."""
    found = {}
    for name, picture, options in (
        ("rotated.jpg", Image.fromarray(smooth(1, 48, 70)), {"exif": _turned()}),
        ("cmyk.jpg", Image.frombytes("CMYK", (41, 60), smooth(2, 60, 41, 4).tobytes()), {}),
        ("grey.jpg", Image.fromarray(smooth(3, 33, 90)[..., 0]), {"progressive": True}),
        ("palette.png", Image.fromarray(smooth(4, 52, 52)).convert("P"), {}),
    ):
        stream = io.BytesIO()
        picture.save(stream, "JPEG" if name.endswith("jpg") else "PNG", **options)
        found[name] = stream.getvalue()
    return found


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter
    return exif
