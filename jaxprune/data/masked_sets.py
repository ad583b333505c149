"""Images with masks in a folder of one's own, and in prepared TensorFlow Datasets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune import check
from jaxprune.data._pictures import colours, fitted, numbers, outward, same_size, squeezed, tight
from jaxprune.data.annotated import Annotated
from jaxprune.data.tfds import tfds

_PICTURES = (".jpg", ".jpeg", ".png")

# A box is kept as float32 fractions of the sides: what that moves a corner by, in pixels, at most.
_FRACTION_ERROR = 1e-3


def annotated_folder(folder: str | Path, *, image: int = 224) -> Annotated:
    """Reads a folder of images and masks, a subfolder for each class.

        images/CLASS/NAME.jpg     or .jpeg, .png
        masks/CLASS/NAME.png      of the same size; a pixel is of an object where it is not 0

    Images are squeezed to squares: bilinearly with antialiasing, masks by the nearest pixel (an object between them
    keeps one).  An image has one box, around its mask before resizing, rounded outward.  No pixel is void.

    Args:
      folder: the one that holds images and masks.
      image: height and width of the images, in pixels.

    Returns:
      The set, sorted by class and name.

    Raises:
      ValueError: a folder or file that is missing (before anything is read), a class without an image, two images that
        differ in their suffix only and would share a mask, a file that can't be read, a mask of another size, with
        colours, or without an object.
    """
    image, folder = check.whole("image", image), Path(folder)
    pairs = _pairs(folder)
    classes = tuple(pairs)
    images, kept, labels = [], [], []
    for label, name in enumerate(classes):
        for picture, mask in pairs[name]:
            objects = numbers(mask) != 0
            pixels = colours(picture)
            same_size(picture, pixels.shape, objects.shape)
            kept.append((*fitted(mask, objects, ~objects & False, image), objects))
            images.append(squeezed(pixels, image))
            labels.append(label)
    return _joined(f"folder-{folder.name}-{image}", images, kept, None, labels, classes, image)


def annotated_tfds(
    name: str,
    split: str = "train",
    *,
    image: int,
    folder: str | None = None,
    objects: Sequence[int] | None = None,
    void: Sequence[int] = (),
) -> Annotated:
    """Reads a prepared data set that has masks, see ``jp.data.tfds``: "image", "label" and "segmentation_mask".

    Where it has "objects" with "bbox", those are the boxes; else an image has one box, around its mask.  Images, masks
    and boxes are resized as in ``annotated_folder``.

    Args:
      name: the name of the data set, such as "oxford_iiit_pet".
      split: which split.
      image: height and width of the images, in pixels.
      folder: where prepared sets lie.  None: the default of TensorFlow Datasets.
      objects: the values of the mask that are objects; (1,) for "oxford_iiit_pet".  None: all but 0 and ``void``.
      void: the values that are neither object nor background; (3,) for "oxford_iiit_pet".

    Returns:
      The set.

    Raises:
      ValueError: what ``jp.data.tfds`` raises, a set without masks, masks of another size or without background, an
        empty mask, boxes outside of the image, a class without an image.
    """
    image = check.whole("image", image)
    source = tfds(name, split, image=image, folder=folder)
    images, kept, boxes = [], [], []
    background, seen = False, set()
    for number in range(len(source.labels)):
        example = source.examples[number]
        where = f"example {number} of {source.name}"
        if "segmentation_mask" not in example:
            raise ValueError(
                f"data: expected examples with 'segmentation_mask', but {source.name} has {sorted(example)}. Boxes "
                "alone do not say which pixels are of an object; choose a set with masks."
            )
        values, pixels = np.asarray(example["segmentation_mask"])[..., 0], example["image"]
        same_size(Path(where), pixels.shape, values.shape)
        neither = np.isin(values, list(void))
        found = ~neither & (values != 0 if objects is None else np.isin(values, list(objects)))
        background |= bool(np.any(~found & ~neither))
        seen |= set(np.unique(values).tolist())
        images.append(np.broadcast_to(squeezed(pixels, image), (image, image, 3)))
        kept.append((*fitted(where, found, neither, image), found))
        if "objects" in example and "bbox" in example["objects"]:
            boxes.append(_from_fractions(where, np.asarray(example["objects"]["bbox"]), pixels.shape, image))
    if not background:
        raise ValueError(
            f"data: the masks of {source.name} have no background: their values are {sorted(seen)}, and none is left. "
            "Say which values are objects, and which are void: objects=(1,), void=(3,)."
        )
    return _joined(source.name, images, kept, tuple(boxes) or None, source.labels, source.classes, image)


def _joined(
    name: str, images: list[Any], kept: list[Any], boxes: Any, labels: Any, classes: tuple[str, ...], image: int
) -> Annotated:
    """Makes the set of (mask, void, mask before resizing) of each image; boxes None: around the masks."""
    around = tuple(outward(tight(whole), whole.shape, image) for _, _, whole in kept) if boxes is None else boxes
    masks, voids = (np.stack([each[part] for each in kept]) for part in (0, 1))
    return Annotated(name, np.stack(images), masks, voids, around, np.asarray(labels, np.int32), classes)


def _pairs(folder: Path) -> dict[str, list[tuple[Path, Path]]]:
    """Lists the pictures of each class with their masks, all of which are there."""
    for part in ("images", "masks"):
        if not (folder / part).is_dir():
            raise ValueError(
                f"folder: expected {part}/CLASS/ in {str(folder)!r}, but there is no folder {part!r}. Pictures lie in "
                "images/CLASS/NAME.jpg, masks in masks/CLASS/NAME.png."
            )
    classes = sorted(path for path in (folder / "images").iterdir() if path.is_dir())
    if not classes:
        raise ValueError(f"folder: expected a subfolder for each class in {str(folder / 'images')!r}, but it has none.")
    found = {}
    for path in classes:
        pictures = sorted(each for each in path.iterdir() if each.suffix.lower() in _PICTURES)
        if not pictures:
            raise ValueError(
                f"folder: class {path.name!r} has no image in {str(path)!r} ({', '.join(_PICTURES)}). Remove the "
                "folder, or fill it."
            )
        stems = [each.stem for each in pictures]
        if twice := [stem for stem in stems if stems.count(stem) > 1]:
            raise ValueError(
                f"folder: class {path.name!r} has more than one image {twice[0]!r} ("
                f"{', '.join(each.name for each in pictures if each.stem == twice[0])}), and they would share the mask "
                f"{twice[0]}.png. Rename all but one, and give each its mask."
            )
        found[path.name] = [(each, folder / "masks" / path.name / f"{each.stem}.png") for each in pictures]
    missing = [mask for pairs in found.values() for _, mask in pairs if not mask.is_file()]
    if missing:
        raise ValueError(f"folder: {len(missing)} masks are missing, the first {str(missing[0])!r}.")
    return found


def _from_fractions(where: str, boxes: np.ndarray, shape: tuple[int, ...], image: int) -> np.ndarray:
    """Makes pixels of (ymin, xmin, ymax, xmax) in fractions of the sides."""
    sides = np.array([shape[0], shape[1]] * 2)
    pixels = boxes.reshape(-1, 4).astype(np.float64) * sides
    first, last = np.floor(pixels[:, :2] + _FRACTION_ERROR), np.ceil(pixels[:, 2:] - _FRACTION_ERROR)
    if np.any(first < 0) or np.any(last > sides[2:]) or np.any(first >= last):
        raise ValueError(
            f"data: {where} has a box without area or outside of its image: {boxes.tolist()}. Expected (ymin, xmin, "
            "ymax, xmax) in fractions of the sides."
        )
    return outward(np.concatenate([first, last], axis=1).astype(np.int64), shape, image)
