"""Images with masks and boxes: what the record refuses, folders, prepared data sets, painted scenes."""

import io
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

import jaxprune as jp
from jaxprune.data import _pictures


def parts(**change):
    """Two images of 4 x 6 pixels, an object of one class in each."""
    mask = np.zeros((2, 4, 6), bool)
    mask[:, 1:3, 2:5] = True
    box = np.array([[1, 2, 3, 5]], np.int32)
    fine = {
        "name": "two",
        "images": np.zeros((2, 4, 6, 3), np.float32),
        "mask": mask,
        "void": np.zeros_like(mask),
        "boxes": (box, box),
        "labels": np.array([0, 1], np.int32),
        "classes": ("no", "yes"),
    }
    return fine | change


BOX, MASK = parts()["boxes"][0], parts()["mask"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((2, 4, 6, 1), np.float32)}, ValueError, r"images: expected \[n, h, w, 3\]"),
        ({"images": np.zeros((2, 3, 8, 8))}, ValueError, r"images: .* with the channels last, .* \(2, 3, 8, 8\)"),
        ({"images": np.full((2, 4, 6, 3), np.nan)}, ValueError, r"images: expected finite numbers"),
        ({"images": np.full((2, 4, 6, 3), 255.0)}, ValueError, r"images: .* they lie in \[255, 255\]\. Divide"),
        (
            {"mask": MASK[:, :2]},
            ValueError,
            r"mask: expected bool \[n, h, w\] = \(2, 4, 6\), but got \(2, 2, 6\)\. Resize",
        ),
        ({"void": MASK[:, :2]}, ValueError, r"void: expected bool \[n, h, w\] = \(2, 4, 6\), but got \(2, 2, 6\)"),
        ({"mask": MASK * 1.0}, TypeError, r"mask: expected bool, but got float64"),
        (
            {"mask": MASK & [[[False]], [[True]]]},
            ValueError,
            r"mask: .* 1 of 2 masks are empty, the first that of image 0",
        ),
        ({"void": MASK}, ValueError, r"void: expected pixels that are no object"),
        ({"boxes": (BOX,)}, ValueError, r"boxes: expected an array \[k, 4\] for each of 2 images, but got 1"),
        ({"boxes": (BOX, BOX[0])}, ValueError, r"boxes: expected int \[k, 4\], but those of image 1 are \(4,\)"),
        ({"boxes": (BOX, BOX * 1.0)}, TypeError, r"boxes: expected whole pixels, but those of image 1 are float64"),
        ({"boxes": (BOX, BOX + 3)}, ValueError, r"boxes: expected 0 <= y0 < y1 <= 4 .* image 1 has \[4, 5, 6, 8\]"),
        ({"boxes": (BOX, BOX[:, [2, 1, 0, 3]])}, ValueError, r"boxes: .* image 1 has \[3, 2, 1, 5\]"),
        ({"labels": np.array([0])}, ValueError, r"labels: expected one for each of 2 images"),
        ({"labels": np.array([0, 2])}, ValueError, r"labels: expected labels in \[0, 2\), but found 2"),
        ({"labels": np.array([0, 0])}, ValueError, r"labels: class 1 has no example"),
        ({"labels": np.array([0.0, 1.0])}, TypeError, r"labels: expected integer class labels"),
    ],
)
def test_annotated_names_what_does_not_fit_together(change, error, message):
    with pytest.raises(error, match=message):
        jp.data.Annotated(**parts(**change))


def test_annotated_may_have_an_image_without_boxes_and_a_part_without_a_class():
    made = jp.data.Annotated(**parts(boxes=(BOX, BOX[:0])))
    part = made.take([1, 1])
    assert (part.labels.tolist(), part.images.shape, [len(boxes) for boxes in part.boxes]) == (
        [1, 1],
        (2, 4, 6, 3),
        [0, 0],
    )
    assert made.take([1, 0]).labels.tolist() == [1, 0]


def test_annotated_scenes_keep_their_masks_and_boxes():
    scenes = jp.data.scenes(jax.random.key(0), 4, image=40)
    made = jp.data.annotated_scenes(scenes, [0, 1, 1, 0], ("a", "b"), "four")
    np.testing.assert_array_equal(made.mask, scenes.mask[:, 0])
    np.testing.assert_array_equal(np.concatenate(made.boxes), scenes.box[:, 0])
    np.testing.assert_array_equal(np.rint(made.images * 255), scenes.image)
    for mask, boxes in zip(made.mask, made.boxes, strict=True):
        np.testing.assert_array_equal(_pictures.tight(mask), boxes)
    several = jp.data.scenes(jax.random.key(0), 2, objects=2)
    with pytest.raises(ValueError, match="scenes: expected one object in each, but they have up to 2"):
        jp.data.annotated_scenes(several, [0, 1], ("a", "b"), "two")


def test_fitted_masks_take_the_pixel_at_the_middle_and_lie_where_the_image_does():
    """A mask and an image of itself, resized their own ways, differ only where the image is half covered."""
    mask = np.zeros((37, 53), bool)
    mask[5:22, 11:40] = True
    small, _ = _pictures.fitted("it", mask, mask & False, 16)
    picture = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((16, 16), Image.Resampling.BILINEAR))
    assert np.all(picture[small] > 0.3)
    assert np.all(picture[~small] < 0.7)
    assert np.array_equal(_pictures.fitted("it", mask[:16, :16], mask[:16, :16] & False, 16)[0], mask[:16, :16])
    (y0, x0, y1, x1) = _pictures.outward(_pictures.tight(mask), mask.shape, 16)[0]
    assert small[y0:y1, x0:x1].sum() == small.sum()


# ---------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (name, picture) in enumerate([("cat", "b.png"), ("cat", "a.png"), ("dog", "c.png")]):
        for part in ("images", "masks"):
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 12, 3), 80 * number, np.uint8)).save(tmp_path / "images" / name / picture)
        mask = np.zeros((8, 12), np.uint8)
        mask[2:6, 3 + number : 9] = 1 + number
        Image.fromarray(mask).save(tmp_path / "masks" / name / picture)
    return tmp_path


def test_annotated_folder_reads_images_and_masks(folder):
    found = jp.data.annotated_folder(folder, image=4)
    assert (found.classes, found.labels.tolist(), found.images.shape) == (("cat", "dog"), [0, 0, 1], (3, 4, 4, 3))
    np.testing.assert_allclose(found.images[:, 0, 0, 0] * 255, [80, 0, 160], atol=1e-4)
    assert [boxes.tolist() for boxes in found.boxes] == [[[1, 1, 3, 3]]] * 3
    # Middles of columns: 1.5, 4.5, 7.5 and 10.5 of 12.
    assert found.mask[2].tolist() == [
        [False] * 4,
        [False, False, True, False],
        [False, False, True, False],
        [False] * 4,
    ]
    assert found.mask[0, 1].tolist() == [False, True, True, False]
    assert not found.void.any()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "masks/cat/a.png").unlink(), r"folder: 1 masks are missing, the first .*a.png"),
        (
            lambda root: Image.new("RGB", (12, 8)).save(root / "images/cat/a.jpg"),
            r"folder: '.*cat' has more than one image 'a' \(a\.jpg, a\.png\), and they would share the mask a\.png",
        ),
        (
            lambda root: [Image.new("L", (12, 8), 1).save(mask) for mask in root.glob("masks/*/*")],
            r"folder: the masks in '.*' have no background: no pixel of any of them is 0\. Save them as PNG",
        ),
        (lambda root: (root / "images/elk").mkdir(), r"folder: class 'elk' has no image in"),
        (lambda root: (root / "masks").rename(root / "mask"), r"folder: .* there is no folder 'masks'"),
        (lambda root: (root / "images").rename(root / "image"), r"folder: .* there is no folder 'images'"),
        (
            lambda root: Image.new("L", (8, 12), 1).save(root / "masks/cat/a.png"),
            r"a.png: expected 12 x 8 pixels .* but got 8 x 12",
        ),
        (lambda root: Image.new("L", (12, 8)).save(root / "masks/dog/c.png"), r"c.png: .* its mask is empty"),
        (lambda root: Image.new("RGB", (12, 8)).save(root / "masks/dog/c.png"), r"c.png: .* but it is RGB"),
    ],
)
def test_annotated_folder_names_what_is_wrong(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        jp.data.annotated_folder(folder, image=4)


def test_annotated_folder_takes_what_folder_takes_and_nothing_hidden(folder):
    want = jp.data.annotated_folder(folder, image=4)
    for name in (".ipynb_checkpoints/a.png", "__MACOSX/cat/a.png", "cat/._a.jpg"):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(b"no image")
    shutil.move(folder / "images/cat/b.png", folder / "images/cat/b.PNG")
    Image.open(folder / "images/dog/c.png").save(folder / "images/dog/c.webp", lossless=True)
    (folder / "images/dog/c.png").unlink()
    got = jp.data.annotated_folder(folder, image=4)
    assert got.classes == want.classes
    np.testing.assert_array_equal(got.images, want.images)
    np.testing.assert_array_equal(got.mask, want.mask)


def test_annotated_folder_without_classes_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="folder: expected a subfolder for each class"):
        jp.data.annotated_folder(tmp_path)


# ------------------------------------------------------------------------------------------------------------- tfds


def encoded(values: np.ndarray) -> io.BytesIO:
    picture = io.BytesIO()
    Image.fromarray(values).save(picture, "PNG")
    picture.seek(0)
    return picture


class JaxpruneMasks(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Six images of 10 x 20 pixels, an object with a border (1, 3) on a ground of 2, and two boxes each."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    MASKS = BOXES = True

    def _info(self):
        kinds = tensorflow_datasets.features
        features = {"image": kinds.Image(shape=(None, None, 3)), "label": kinds.ClassLabel(names=["dark", "bright"])}
        if self.MASKS:
            features["segmentation_mask"] = kinds.Image(shape=(None, None, 1), use_colormap=False)
        if self.BOXES:
            features["objects"] = kinds.Sequence({"bbox": kinds.BBoxFeature()})
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(6):
            mask = np.full((10, 20), 2, np.uint8)
            mask[2:8, 4:14] = 3
            mask[3:7, 5:13] = 1
            example = {"image": encoded(np.full((10, 20, 3), 40 * number, np.uint8)), "label": int(number >= 3)}
            if self.MASKS:
                example["segmentation_mask"] = encoded(mask)
            if self.BOXES:
                box = tensorflow_datasets.features.BBox
                example["objects"] = [{"bbox": box(0.3, 0.25, 0.7, 0.65)}, {"bbox": box(0.0, 0.9, 0.1, 1.0)}]
            yield number, example


class JaxpruneMasksAlone(JaxpruneMasks):
    """The same without boxes."""

    BOXES = False


class JaxpruneBoxesAlone(JaxpruneMasks):
    """The same without masks."""

    MASKS = False


def prepared(builder, folder: Path, **options):
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return jp.data.annotated_tfds(builder.name, folder=str(folder), **options)


def test_annotated_tfds_reads_masks_and_boxes(tmp_path):
    found = prepared(JaxpruneMasks, tmp_path, image=10, objects=(1,), void=(3,))
    inside, around = np.zeros((2, 10, 10), bool)
    inside[3:7, 2:6] = True  # columns 5 to 12: the middles 5, 7, 9, 11 of the pixels 2 to 5
    around[2:8, 2:7] = True
    for number in range(6):
        np.testing.assert_array_equal(found.mask[number], inside)
        np.testing.assert_array_equal(found.void[number], around & ~inside)
        assert found.boxes[number].tolist() == [[3, 2, 7, 7], [0, 9, 1, 10]]
    greys = np.rint(found.images[:, 0, 0, 0] * 255 / 40)
    np.testing.assert_array_equal(found.labels, greys >= 3)
    assert (found.classes, found.name) == (("dark", "bright"), "tfds:jaxprune_masks:train")
    with pytest.raises(ValueError, match=r"have no background: their values are \[1, 2, 3\].*objects=\(1,\)"):
        jp.data.annotated_tfds("jaxprune_masks", folder=str(tmp_path), image=10)


def test_annotated_tfds_without_boxes_has_those_around_its_masks(tmp_path):
    found = prepared(JaxpruneMasksAlone, tmp_path, image=10, objects=(1,))
    assert [boxes.tolist() for boxes in found.boxes] == [[[3, 2, 7, 7]]] * 6


def test_annotated_tfds_without_masks_is_an_error(tmp_path):
    with pytest.raises(
        ValueError, match=r"expected examples with 'segmentation_mask', but .* has \['image', 'label', 'ob"
    ):
        prepared(JaxpruneBoxesAlone, tmp_path, image=10)
