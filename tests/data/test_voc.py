"""The layout of PASCAL VOC: palette masks, boxes counted from 1, and what may be wrong with a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxprune as jp

CAT, HORSE, VOID = 8, 13, 255


def palette() -> list[int]:
    """The colours of VOC: the bits of the index, dealt to red, green and blue from the highest down."""
    colours = []
    for index in range(256):
        bits = [(index >> place) & 1 for place in range(8)]
        colours += [
            sum(bits[channel + 3 * step] << (7 - step) for step in range(3) if channel + 3 * step < 8)
            for channel in range(3)
        ]
    return colours


def save_mask(path: Path, indices: np.ndarray) -> None:
    picture = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    picture.putpalette(palette())
    picture.save(path)


def annotation(*boxes: tuple[int, int, int, int], difficult: int = 0) -> str:
    """Boxes as (xmin, ymin, xmax, ymax), as VOC writes them; the last is marked as difficult where that is 1."""
    objects = ""
    for number, (xmin, ymin, xmax, ymax) in enumerate(boxes):
        hard = difficult if number == len(boxes) - 1 else 0
        objects += (
            f"<object><name>cat</name><part><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
            f"</part><difficult>{hard}</difficult><bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax>"
            f"<ymax>{ymax}</ymax></bndbox></object>"
        )
    return f"<annotation><folder>VOC</folder>{objects}</annotation>"


def add(root: Path, name: str, indices: np.ndarray, xml: str, red: float = 0.0) -> None:
    picture = np.zeros((*indices.shape, 3), np.uint8)
    picture[..., 0] = round(255 * red)
    Image.fromarray(picture).save(root / "JPEGImages" / f"{name}.jpg", quality=100)
    save_mask(root / "SegmentationClass" / f"{name}.png", indices)
    (root / "Annotations" / f"{name}.xml").write_text(xml)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images of 20 x 40 pixels: a cat, a horse with a void border, and a cat beside a smaller horse."""
    for part in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / part).mkdir(parents=True)
    cat, horse, both = np.zeros((3, 20, 40), np.uint8)
    cat[4:12, 8:24] = CAT
    horse[3:13, 7:25] = VOID
    horse[4:12, 8:24] = HORSE
    both[0:10, 0:20] = CAT
    both[12:18, 30:40] = HORSE
    add(tmp_path, "a_cat", cat, annotation((9, 5, 24, 12)), red=1.0)
    add(tmp_path, "b_horse", horse, annotation((9, 5, 24, 12)))
    add(tmp_path, "c_both", both, annotation((1, 1, 20, 10), (31, 13, 40, 18), difficult=1))
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a_cat\nb_horse\nc_both\n")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a_cat\n")
    return tmp_path


def test_voc_m7_reads_a_palette_mask_with_an_even_class_by_its_indices(root):
    """Thresholding the red channel of the colours would lose cat (64, 0, 0), and keep horse (192, 0, 128)."""
    assert (palette()[3 * CAT], palette()[3 * HORSE], palette()[3 * VOID]) == (64, 192, 224)
    found = jp.data.voc(root, image=20)
    expected = np.zeros((20, 20), bool)
    expected[4:12, 4:12] = True
    np.testing.assert_array_equal(found.mask[0], expected)
    np.testing.assert_array_equal(found.mask[1], expected)
    assert found.classes == ("cat", "horse")
    assert found.labels.tolist() == [0, 1, 0]


def test_voc_m7_void_is_neither_object_nor_background(root):
    found = jp.data.voc(root, image=20)
    border = np.zeros((20, 20), bool)
    border[3:13, 3:12] = True  # columns 7 to 24 of 40: the middles of 3 (7) to 11 (23), and of 12 (25) no more
    np.testing.assert_array_equal(found.void[1], border & ~found.mask[1])
    assert not found.void[[0, 2]].any()


def test_voc_boxes_counted_from_one_become_half_open_and_grow_outward(root):
    found = jp.data.voc(root, image=20)
    assert [boxes.tolist() for boxes in found.boxes] == [
        [[4, 4, 12, 12]],
        [[4, 4, 12, 12]],
        [[0, 0, 10, 10], [12, 15, 18, 20]],
    ]
    small = jp.data.voc(root, image=3)
    # Rows 4 to 12 of 20 are 0.6 to 1.8 of 3; columns 8 to 24 of 40 too.
    assert small.boxes[0].tolist() == [[0, 0, 2, 2]]
    assert [len(boxes) for boxes in jp.data.voc(root, image=20, difficult=False).boxes] == [1, 1, 1]
    assert jp.data.voc(root, image=20).boxes[0].dtype == np.int32


@pytest.mark.parametrize("word", ["1", " 1 ", "true", "True", "yes"])
def test_voc_knows_difficult_boxes_by_every_word_for_yes(root, word):
    path = root / "Annotations/c_both.xml"
    path.write_text(path.read_text().replace("<difficult>1<", f"<difficult>{word}<"))
    assert [len(boxes) for boxes in jp.data.voc(root, image=4, difficult=False).boxes] == [1, 1, 1]
    assert [len(boxes) for boxes in jp.data.voc(root, image=4).boxes] == [1, 1, 2]


def test_voc_takes_a_mark_before_utf8_other_suffixes_and_nothing_hidden(root):
    want = jp.data.voc(root, image=8)
    (root / "ImageSets/Segmentation/val.txt").write_bytes(b"\xef\xbb\xbfa_cat\r\nb_horse\r\n\r\nc_both")
    (root / "ImageSets/Segmentation/._val.txt").write_bytes(b"none")
    (root / "JPEGImages/._a_cat.jpg").write_bytes(b"none")
    (root / "JPEGImages/a_cat.jpg").rename(root / "JPEGImages/a_cat.JPG")
    Image.open(root / "JPEGImages/b_horse.jpg").save(root / "JPEGImages/b_horse.png")
    (root / "JPEGImages/b_horse.jpg").unlink()
    got = jp.data.voc(root, image=8)
    np.testing.assert_array_equal(got.images, want.images)
    np.testing.assert_array_equal(got.mask, want.mask)
    with pytest.raises(ValueError, match=r"split: unknown value 'test'.*Known: train, val\."):
        jp.data.voc(root, "test")


def test_voc_rounds_corners_between_pixels_outward(root):
    (root / "Annotations/a_cat.xml").write_text(annotation((9.4, 5.9, 23.2, 11.5)))
    assert jp.data.voc(root, "train", image=20).boxes[0].tolist() == [[4, 4, 12, 12]]


def test_voc_resizes_images_and_keeps_their_order(root):
    found = jp.data.voc(root, image=8)
    assert (found.images.shape, found.images.dtype, found.name) == ((3, 8, 8, 3), np.float32, "voc-val-8")
    np.testing.assert_allclose(found.images[0, ..., 0], 1.0, atol=0.02)
    np.testing.assert_allclose(found.images[1:, ..., 0], 0.0, atol=0.02)
    first = jp.data.voc(root, image=8, count=1)
    assert (len(first.images), first.classes) == (1, ("cat",))
    assert len(jp.data.voc(root, "train", image=8).images) == 1


def test_voc_object_between_pixels_keeps_the_one_that_it_fills_most(root):
    indices = np.zeros((20, 40), np.uint8)
    indices[14, 31:34] = CAT  # of 2 x 2 pixels the middles are at rows 5, 15 and columns 10, 30
    save_mask(root / "SegmentationClass/a_cat.png", indices)
    found = jp.data.voc(root, "train", image=2)
    assert found.mask[0].tolist() == [[False, False], [False, True]]


def write(part: str, text: str):
    return lambda root: (root / part).write_text(text)


def mask_of(indices: np.ndarray):
    return lambda root: save_mask(root / "SegmentationClass/a_cat.png", indices)


def remove(part: str):
    return lambda root: (root / part).unlink()


def colour_mask(root: Path) -> None:
    path = root / "SegmentationClass/a_cat.png"
    Image.open(path).convert("RGB").save(path)


def picture_of_another_size(root: Path) -> None:
    Image.new("RGB", (20, 40)).save(root / "JPEGImages/a_cat.jpg")


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("SegmentationClass/a_cat.png"), r"folder: 1 files of split 'val' are missing, the first .*a_cat.png"),
        (remove("Annotations/b_horse.xml"), r"folder: 1 files of split 'val' are missing, the first .*b_horse.xml"),
        (remove("JPEGImages/c_both.jpg"), r"folder: 1 files of split 'val' are missing, the first .*c_both.jpg"),
        (remove("ImageSets/Segmentation/val.txt"), r"split: unknown value 'val'.*Known: train"),
        (write("ImageSets/Segmentation/val.txt", "\n"), r"split: 'val' lists no image"),
        (
            write("ImageSets/Segmentation/val.txt", "a_cat  1\nb_horse -1\n"),
            r"val\.txt: expected one name a line, but found 'a_cat 1'\. Is it a list of a class, with 1 or -1",
        ),
        (
            lambda root: Image.new("RGB", (40, 20)).save(root / "JPEGImages/a_cat.png"),
            r"folder: '.*JPEGImages' has more than one image 'a_cat' \(a_cat\.jpg, a_cat\.png\)",
        ),
        (
            lambda root: [path.unlink() for path in root.glob("ImageSets/Segmentation/*")],
            r"folder: expected lists of names, such as val\.txt, in '.*Segmentation', but there is none",
        ),
        (
            write("Annotations/a_cat.xml", annotation((9, 5, 24, 12)).replace("cult>0<", "cult>maybe<")),
            r"a_cat\.xml: cannot be read as an annotation of VOC \(difficult is 'maybe', and neither 0 nor 1\)",
        ),
        (write("ImageSets/Segmentation/val.txt", "a_cat\na_cat"), r"split: 'val' names the image 'a_cat' more than"),
        (mask_of(np.zeros((20, 40))), r"a_cat.png: expected a pixel of an object, but its mask is empty"),
        (mask_of(np.full((20, 40), VOID)), r"a_cat.png: .* its mask is empty"),
        (mask_of(np.full((20, 40), 21)), r"a_cat.png: expected the indices 0 to 20 and 255, but found 21"),
        (mask_of(np.full((20, 41), CAT)), r"a_cat.jpg: expected 20 x 41 pixels .* but got 20 x 40"),
        (colour_mask, r"a_cat.png: expected a mask that holds a number for each pixel .* but it is RGB"),
        (picture_of_another_size, r"a_cat.jpg: expected 20 x 40 pixels .* but got 40 x 20"),
        (write("SegmentationClass/a_cat.png", "no"), r"a_cat.png: cannot be read as an image"),
        (write("JPEGImages/a_cat.jpg", "no"), r"a_cat.jpg: cannot be read as an image"),
        (write("Annotations/a_cat.xml", "<annotation>"), r"a_cat.xml: cannot be read as an annotation of VOC"),
        (write("Annotations/a_cat.xml", BOMB), r"a_cat.xml: cannot be read .* declares a document type, 'x'"),
        (write("Annotations/a_cat.xml", "<a><object></object></a>"), r"a_cat.xml: cannot be read.*needs a bndbox"),
        (
            write("Annotations/a_cat.xml", annotation((0, 5, 24, 12))),
            r"a_cat.xml: .*counted from 1, but one has .*xmin 0",
        ),
        (write("Annotations/a_cat.xml", annotation((9, 5, 41, 12))), r"a_cat.xml: .* 20 x 40 pixels .*xmax 41"),
        (write("Annotations/a_cat.xml", annotation((9, 12, 24, 5))), r"a_cat.xml: .*ymin 12, xmin 9, ymax 5"),
        (write("Annotations/a_cat.xml", annotation(("nan", 5, 24, 12))), r"a_cat.xml: cannot be read as an annotation"),
        (write("Annotations/a_cat.xml", annotation(("inf", 5, 24, 12))), r"a_cat.xml: cannot be read as an annotation"),
    ],
)
def test_voc_names_what_is_wrong_with_a_folder(root, damage, message):
    damage(root)
    with pytest.raises(ValueError, match=message):
        jp.data.voc(root, image=8)


def test_voc_names_bad_arguments(root, tmp_path):
    with pytest.raises(ValueError, match=r"folder: expected the layout of VOC, with ImageSets/Segmentation"):
        jp.data.voc(tmp_path / "JPEGImages")
    with pytest.raises(ValueError, match="image: expected a whole number of 1 or more, but got 0"):
        jp.data.voc(root, image=0)
    with pytest.raises(ValueError, match="count: expected a whole number of 1 or more"):
        jp.data.voc(root, count=0)
