"""Images with masks in a folder of one's own, and in prepared TensorFlow Datasets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune import check
from jaxprune.data._listing import SUFFIXES, by_stem, is_hidden, only
from jaxprune.data._pictures import fitted, numbers, outward, pixels, same_size, squeezed, tight
from jaxprune.data.annotated import Annotated
from jaxprune.data.tfds import tfds

# A box is kept as float32 fractions of the sides: what that moves a corner by, in pixels, at most.
_FRACTION_ERROR = 1e-3


def annotated_folder(folder: str | Path, *, image: int = 224) -> Annotated:
    """Reads a folder of images and masks, a subfolder for each class.

        images/CLASS/NAME.jpg     or another suffix of ``jp.data.folder``, in any case
        masks/CLASS/NAME.png      of the same size; a pixel is of an object where it is not 0

    Images are squeezed to squares: bilinearly with antialiasing, masks by the nearest pixel (an object between them
    keeps one).  An image has one box, around its mask before resizing, rounded outward.  No pixel is void.  What begins
    with a dot, and ``__MACOSX``, is no data.

    Args:
      folder: the one that holds images and masks.
      image: height and width of the images, in pixels.

    Returns:
      The set, sorted by class and name.

    Raises:
      ValueError: a folder or file that is missing (before anything is read), a class without an image, two images that
        differ in their suffix only and would share a mask, a file that can't be read, a mask of another size, with
        colours, or without an object, or masks none of which has background.
    """
    image, folder = check.whole("image", image), Path(folder)
    pairs = _pairs(folder)
    classes = tuple(pairs)
    images, kept, labels = [], [], []
    background = False
    for label, name in enumerate(classes):
        for picture, mask in pairs[name]:
            objects = numbers(mask, mask) != 0
            shown = pixels(picture, picture)
            same_size(picture, shown.shape, objects.shape)
            background |= not objects.all()
            kept.append((*fitted(mask, objects, ~objects & False, image), objects))
            images.append(squeezed(shown, image))
            labels.append(label)
    if not background:
        raise ValueError(
            f"folder: the masks in {str(folder)!r} have no background: no pixel of any of them is 0. Save them as PNG, "
            "without loss, with 0 where no object is."
        )
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
    if "segmentation_mask" not in source.features:
        raise ValueError(
            f"data: expected examples with 'segmentation_mask', but {source.name} has {sorted(source.features)}. Boxes "
            "alone do not say which pixels are of an object; choose a set with masks."
        )
    has_boxes = "objects" in source.features and "bbox" in source.features["objects"]
    for number in range(len(source.labels)):
        where = f"example {number} of {source.name}"
        values, shown = source.numbers(number, "segmentation_mask"), source.pixels(number)
        same_size(where, shown.shape, values.shape)
        neither = np.isin(values, list(void))
        found = ~neither & (values != 0 if objects is None else np.isin(values, list(objects)))
        background |= bool(np.any(~found & ~neither))
        seen |= set(np.unique(values).tolist())
        images.append(np.broadcast_to(squeezed(shown, image), (image, image, 3)))
        kept.append((*fitted(where, found, neither, image), found))
        if has_boxes:
            fractions = np.asarray(source.decoded(number, "objects")["bbox"])
            boxes.append(_from_fractions(where, fractions, shown.shape, image))
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
    """Lists the images of each class with their masks, all of which are there."""
    for part in ("images", "masks"):
        if not (folder / part).is_dir():
            raise ValueError(
                f"folder: expected {part}/CLASS/ in {str(folder)!r}, but there is no folder {part!r}. Images lie in "
                "images/CLASS/NAME.jpg, masks in masks/CLASS/NAME.png."
            )
    classes = sorted(each for each in (folder / "images").iterdir() if each.is_dir() and not is_hidden(each.name))
    if not classes:
        raise ValueError(f"folder: expected a subfolder for each class in {str(folder / 'images')!r}, but it has none.")
    found = {}
    for path in classes:
        pictures = by_stem(path)
        if not pictures:
            raise ValueError(
                f"folder: class {path.name!r} has no image in {str(path)!r} ({', '.join(SUFFIXES)}). Remove the "
                "folder, or fill it."
            )
        masks = folder / "masks" / path.name
        found[path.name] = [
            (only(each, f"the mask {stem}.png"), masks / f"{stem}.png") for stem, each in pictures.items()
        ]
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
