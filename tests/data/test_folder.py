import dataclasses
import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

import jaxprune as jp
from jaxprune.data._contents import fingerprint
from jaxprune.types import Preprocess
from tests.data import pictures

RULE = Preprocess(resize=20, crop=16)


def encoded(seed: int, height: int = 24, width: int = 30, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pictures.smooth(seed, height, width)).save(stream, kind)
    return stream.getvalue()


def write(place: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three classes; nested folders, suffixes in capitals, and files that are no images."""
    names = ["cat/b.png", "cat/a.JPEG", "cat/x/z.jpg", "cat/x-y/0.png", "Dog/1.bmp", "Dog/2.webp", "eel/0/0/0.jpg"]
    kinds = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "bmp": "BMP", "webp": "WEBP"}
    files = {name: encoded(seed, kind=kinds[name.split(".")[1].lower()]) for seed, name in enumerate(names)}
    return write(tmp_path / "three", {**files, "cat/notes.txt": b"no image", "outside.png": encoded(9)})


def opened(path: Path, **options) -> jp.data.Folder:
    return jp.data.folder(path, preprocess=RULE, **options)


# ---------------------------------------------------------------------------------------------------- what is there


def test_folder_has_classes_and_pictures_in_the_order_of_image_folder(three):
    source = opened(three)
    assert isinstance(source, jp.data.Source)
    assert (source.name, source.classes) == ("folder:three", ("Dog", "cat", "eel"))
    # As sorted(os.walk(...)) lists them: folders by their paths, where "cat/x-y" is before "cat/x/".
    want = [
        (Path(root) / name).relative_to(three).as_posix()
        for label in source.classes
        for root, _, names in sorted(os.walk(three / label))
        for name in sorted(names)
        if not name.endswith("txt")
    ]
    assert list(source.files) == want
    assert want[2:6] == ["cat/a.JPEG", "cat/b.png", "cat/x/z.jpg", "cat/x-y/0.png"]
    assert source.labels.tolist() == [0, 0, 1, 1, 1, 1, 2]
    assert (len(source), source.image_shape, source.skipped) == (7, (16, 16, 3), {})


def test_folder_images_are_the_preprocessed_files(three):
    source = opened(three)
    images = source.images(np.array([4, 0]))
    assert (images.shape, images.dtype) == ((2, 16, 16, 3), np.uint8)
    for image, index in zip(images, (4, 0), strict=True):
        with Image.open(three / source.files[index]) as picture:
            np.testing.assert_array_equal(image, jp.data.preprocess(picture, RULE))
    assert source[-1]["label"] == 2
    np.testing.assert_array_equal(source[4]["image"], images[0])
    assert len(list(source)) == 7
    with pytest.raises(IndexError, match=r"index: expected an example in \[0, 7\), but got 7"):
        source[7]
    chosen = jp.data.select(source, np.arange(7), (1,))
    np.testing.assert_array_equal(chosen["image"], source.images(np.arange(2, 6)).astype(np.float32) / 255)


def test_folder_skips_what_is_hidden_and_says_so(three):
    want = opened(three)
    hidden = ("._cat.jpg", ".DS_Store", "cat/._a.JPEG", "cat/.ipynb_checkpoints/a.png", "cat/x/__MACOSX/z.jpg")
    write(three, dict.fromkeys((*hidden, "cat/.notes", ".ipynb_checkpoints/a.png", "__MACOSX/cat/._a.png"), b"none"))
    source = opened(three)
    source.check(whole=True)
    assert (source.files, source.classes, source.fingerprint()) == (want.files, want.classes, want.fingerprint())
    skipped = [".ipynb_checkpoints", "__MACOSX", "cat/.ipynb_checkpoints", "cat/._a.JPEG", "cat/x/__MACOSX"]
    assert sorted(source.skipped) == list(source.skipped) == sorted(skipped)
    assert "begins with a dot" in source.skipped["cat/._a.JPEG"]
    assert opened(three, on_error="skip").skipped == source.skipped


def test_folder_with_classes_keeps_their_order_and_gaps(three):
    plain = opened(three)
    source = opened(three, classes=["eel", "newt", "cat", "Dog", "yak"])
    assert source.classes == ("eel", "newt", "cat", "Dog", "yak")
    assert source.labels.tolist() == [0, 2, 2, 2, 2, 3, 3]
    assert source.files == (*plain.files[6:], *plain.files[2:6], *plain.files[:2])
    np.testing.assert_array_equal(source.images(np.array([0])), plain.images(np.array([6])))
    assert source.fingerprint() != plain.fingerprint()
    some = jp.data.select(source, np.arange(7), complete=False)
    assert some["label"].tolist() == source.labels.tolist()
    with pytest.raises(ValueError, match=r"class 1 has no example \(2 of 5 classes are empty\)"):
        jp.data.select(source, np.arange(7))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (["cat", "Dog"], ValueError, r"classes: 1 of 3 subfolders of '.*' are not among the 2 given .*first 'eel'"),
        ([], ValueError, r"classes: 3 of 3 subfolders"),
        (["cat", "Dog", "eel", "cat"], ValueError, r"classes: expected every name once, but 'cat'"),
        ("cat", TypeError, r"classes: expected names, such as \('cat', 'dog'\), but got 'cat'"),
        ([0, 1, 2], TypeError, r"classes: expected names"),
    ],
)
def test_folder_names_classes_that_do_not_fit(three, classes, error, message):
    with pytest.raises(error, match=message):
        opened(three, classes=classes)


def test_accuracy_notices_a_network_with_other_outputs_than_classes(three):
    source = opened(three, classes=["Dog", "newt", "cat", "eel"])
    data = jp.data.select(source, np.arange(7), complete=False)

    def network(outputs: int) -> jp.Network:
        return jp.Network(lambda p, s, x: x.reshape(len(x), -1)[:, :outputs], {})

    made = jp.evaluate.transfer.accuracy([data], classes=source.classes)
    assert 0 <= made(network(4))["accuracy"] <= 1
    with pytest.raises(ValueError, match=r"classes: expected one for each of the 10 outputs .* but the data have 4"):
        made(network(10))
    with pytest.raises(ValueError, match=r"labels: expected labels in \[0, 3\), but found 3"):
        jp.evaluate.transfer.accuracy([data])(network(3))


def test_folder_names_a_picture_that_may_not_be_read_by_its_cause(three, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    source = opened(three)
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ValueError, match=r"1\.bmp: cannot be read .*\(Permission denied\)\. Check its rights"):
        source.images(np.array([0]))


def test_folder_follows_links(three, tmp_path):
    (tmp_path / "far").mkdir()
    (three / "eel/0").rename(tmp_path / "far/0")
    (three / "eel/0").symlink_to(tmp_path / "far/0")
    (tmp_path / "linked").symlink_to(three)
    assert opened(tmp_path / "linked").files == opened(three).files
    opened(tmp_path / "linked").check(whole=True)


# ------------------------------------------------------------------------------------------------------ fingerprints


def test_fingerprint_of_a_folder_is_of_names_labels_and_contents(three, tmp_path):
    first = opened(three).fingerprint()
    assert re.fullmatch("sha256-whole:[0-9a-f]{64}", first)
    assert opened(three).fingerprint() == first
    for change in ({"resize": 9}, {"crop": 5}, {"interpolation": "bicubic"}):
        rule = dataclasses.replace(RULE, **change)
        assert rule == RULE or jp.data.folder(three, preprocess=rule).fingerprint() != first
    (tmp_path / "moved").symlink_to(three)
    assert opened(tmp_path / "moved").fingerprint() == first
    found = {first}
    data = bytearray((three / "cat/b.png").read_bytes())
    data[100] ^= 1
    for change in (
        lambda: (three / "cat/b.png").write_bytes(data),
        lambda: (three / "cat/b.png").rename(three / "cat/c.png"),
        lambda: (three / "cat/c.png").rename(three / "eel/c.png"),
        lambda: (three / "eel").rename(three / "fish"),
    ):
        change()
        found.add(opened(three).fingerprint())
    assert len(found) == 5


def test_fingerprint_of_much_data_hashes_the_ends(tmp_path):
    middle, end = bytearray(20_000), bytearray(20_000)
    middle[10_000], end[-1] = 1, 1
    names = ["plain", "middle", "end"]
    write(tmp_path, {"plain/f": bytes(20_000), "middle/f": bytes(middle), "end/f": bytes(end)})
    whole = {name: fingerprint(tmp_path / name, ["f"]) for name in names}
    ends = {name: fingerprint(tmp_path / name, ["f"], whole=19_999) for name in names}
    assert len(set(whole.values())) == 3
    assert ends["plain"] == ends["middle"] != ends["end"]
    assert {value.split(":")[0] for value in whole.values()} == {"sha256-whole"}
    assert {value.split(":")[0] for value in ends.values()} == {"sha256-ends"}


# -------------------------------------------------------------------------------------------------- damaged images


DAMAGE = {
    "bomb.png": (lambda: claimed(20_000, 20_000), r"20,000 x 20,000|decompression bomb"),
    "large.png": (lambda: claimed(10_000, 10_000), r"10,000 x 10,000|decompression bomb"),
    "wide.png": (lambda: claimed(1, 200_000), r"has 20 x 4,000,000 \(height x width\) after its resize"),
    "empty.jpg": (lambda: b"", "cannot be read as an image"),
    "text.jpg": (lambda: b"GIF is not this" * 10, "cannot be read as an image"),
    "cut.jpg": (lambda: encoded(1, 64, 64, "JPEG")[:-300], "cannot be read as an image .*truncated"),
    "cut.png": (lambda: encoded(1, 64, 64)[:-300], "cannot be read as an image"),
    "flipped.png": (lambda: flipped(), "cannot be read as an image"),
}
HEADS = {"bomb.png", "large.png", "wide.png", "empty.jpg", "text.jpg"}


def claimed(height: int, width: int) -> bytes:
    """A short PNG that claims to be large; its head is right, with its checksum."""
    data = bytearray(encoded(1))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def flipped() -> bytes:
    data = bytearray(encoded(1, 64, 64))
    data[len(data) // 2] ^= 255
    return bytes(data)


@pytest.fixture(scope="module")
def damaged_files() -> dict[str, bytes]:
    return {name: make() for name, (make, _) in DAMAGE.items()}


@pytest.fixture
def damaged(three, damaged_files) -> Path:
    return write(three, {f"cat/{name}": data for name, data in damaged_files.items()})


@pytest.mark.parametrize("name", DAMAGE)
def test_check_finds_and_names_a_damaged_picture(three, damaged_files, name):
    limit = {"max_pixels": 10_000_000} if name == "wide.png" else {}
    source = opened(write(three, {f"Dog/{name}": damaged_files[name]}), **limit)
    place, message = source.files.index(f"Dog/{name}"), DAMAGE[name][1]
    named = rf"(?s)folder: 1 of 8 images of folder:three cannot be used\. .*Dog/{re.escape(name)}.*({message})"
    with pytest.raises(ValueError, match=named):
        source.check(whole=True, workers=2)
    if name in HEADS:
        with pytest.raises(ValueError, match=named):
            source.check()
    else:
        source.check()
    others = [index for index in range(8) if index != place]
    source.check(others, whole=True)
    source.images(np.array(others))


@pytest.mark.parametrize("name", sorted(DAMAGE.keys() - {"bomb.png", "large.png"}))
def test_folder_names_a_damaged_picture_when_it_is_decoded(three, damaged_files, name):
    source = opened(write(three, {f"Dog/{name}": damaged_files[name]}), max_pixels=10_000_000)
    with pytest.raises(ValueError, match=rf"Dog/{re.escape(name)}: .*{DAMAGE[name][1]}"):
        source.images(np.array([source.files.index(f"Dog/{name}")]))


@pytest.mark.parametrize("name", ["bomb.png", "large.png"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_folder_refuses_a_picture_too_large_before_it_is_decoded(three, damaged_files, name):
    source = opened(write(three, {f"Dog/{name}": damaged_files[name]}))
    with pytest.raises(ValueError, match=rf"Dog/{name}: .*({DAMAGE[name][1]})"):
        source.images(np.array([source.files.index(f"Dog/{name}")]))


def test_check_says_how_many_pictures_are_damaged_and_names_five(damaged):
    with pytest.raises(ValueError, match=r"folder: 8 of 15 images .* The first:\n(  .*\n){4}  .*$") as caught:
        opened(damaged).check(whole=True)
    assert len(re.findall(r"cat/", str(caught.value))) == 5


def test_folder_skips_damaged_pictures_before_any_split(damaged):
    whole = opened(damaged)
    source = opened(damaged, on_error="skip", max_pixels=10_000_000, workers=2)
    assert set(source.skipped) == {f"cat/{name}" for name in DAMAGE}
    assert all(name in reason for name, reason in source.skipped.items())
    assert source.files == tuple(name for name in whole.files if name not in source.skipped)
    assert (len(source), np.bincount(source.labels).tolist()) == (7, [2, 4, 1])
    source.check(whole=True)
    assert source.images(np.arange(7)).shape == (7, 16, 16, 3)
    # An image that is damaged later is an error all the same: nothing is left out of an evaluation.
    (damaged / source.files[3]).write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(source.files[3])):
        source.images(np.arange(7))


def test_folder_finds_one_percent_of_damage_in_both_ways(tmp_path):
    good, bad = encoded(3, kind="JPEG"), {7, 130}
    place = write(tmp_path / "many", {f"{i % 2}/{i:03}.jpg": good[:-50] if i in bad else good for i in range(200)})
    assert sorted(opened(place, on_error="skip").skipped) == ["0/130.jpg", "1/007.jpg"]
    with pytest.raises(ValueError, match="folder: 2 of 200 images"):
        opened(place).check(whole=True)


def test_folder_refuses_a_class_left_empty_by_skipping(three):
    (three / "eel/0/0/0.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"folder: 1 of 3 classes .* have no image that can be read, the first 'eel'"):
        opened(three, on_error="skip")


def test_folder_refuses_a_pillow_that_fills_what_is_missing(three, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match=r"PIL.ImageFile.LOAD_TRUNCATED_IMAGES: expected False"):
        opened(three).images(np.arange(1))


# -------------------------------------------------------------------------------------------- folders that are wrong


def test_folder_names_what_is_wrong_with_folders(tmp_path, three):
    with pytest.raises(ValueError, match=r"folder: .*nowhere' is not a folder. Pass the one that holds a subfolder"):
        opened(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"folder: .*outside.png' is not a folder"):
        opened(three / "outside.png")
    with pytest.raises(ValueError, match=r"folder: expected a subfolder for each class .* one level too deep"):
        opened(three / "eel/0/0")
    (three / "empty").mkdir()
    (three / "notes").mkdir()
    (three / "notes/a.txt").touch()
    with pytest.raises(ValueError, match=r"folder: 2 of 5 classes in .* have no image, the first 'empty' \(.jpg"):
        opened(three)


@pytest.mark.parametrize("place", ["cat", "cat/x"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_folder_refuses_names_that_are_not_utf8(three, place, kind):
    name = os.fsencode(three / place) + (b"/\xff\xfe.png" if kind == "file" else b"/caf\xe9")
    Path(os.fsdecode(name)).touch() if kind == "file" else Path(os.fsdecode(name)).mkdir()
    with pytest.raises(ValueError, match=r"folder: 1 names in b'.*' are not UTF-8, the first b'.*\\x.*'\. Rename them"):
        opened(three)


def test_folder_refuses_a_class_that_is_not_utf8(three):
    Path(os.fsdecode(os.fsencode(three) + b"/\xe9")).mkdir()
    with pytest.raises(ValueError, match=r"are not UTF-8, the first b'\\xe9'"):
        opened(three)


def test_folder_takes_names_in_other_scripts(tmp_path):
    source = opened(write(tmp_path / "ö", {"猫/ё.png": encoded(0), "日 本/é\n.png": encoded(1)}))
    assert source.classes == ("日 本", "猫")
    source.check(whole=True)
    assert source.fingerprint()


@pytest.mark.parametrize("target", ["..", "../..", "."])
def test_folder_refuses_links_in_a_circle(three, target):
    (three / "cat/x/loop").symlink_to(target)
    with pytest.raises(ValueError, match=r"folder: '.*loop' is a link to a folder that it lies in"):
        opened(three)


def test_folder_names_links_to_themselves_and_to_nothing(three):
    (three / "cat/gone.png").symlink_to("nothing.png")
    with pytest.raises(ValueError, match=r"folder: 1 of 8 images.*\n.*cat/gone.png: cannot be read"):
        opened(three).check()
    assert list(opened(three, on_error="skip").skipped) == ["cat/gone.png"]
    (three / "cat/self.png").symlink_to("self.png")
    with pytest.raises(ValueError, match=r"folder: cannot list '.*self.png' \(Too many levels of symbolic links\)"):
        opened(three)


def test_folder_does_not_wait_for_a_pipe(three):
    os.mkfifo(three / "cat/pipe.png")
    with pytest.raises(ValueError, match=r"folder: '.*pipe.png' is neither a regular file nor a folder"):
        opened(three)


@pytest.mark.usefixtures("unchecked")
def test_folder_refuses_bad_arguments(three):
    with pytest.raises(ValueError, match="on_error: unknown value 'ignore'"):
        opened(three, on_error="ignore")
    with pytest.raises(ValueError, match="max_pixels: expected a whole number"):
        opened(three, max_pixels=0)
    with pytest.raises(ValueError, match="preprocess: expected one size for all images"):
        jp.data.folder(three, preprocess=Preprocess(resize=256))
    with pytest.raises(ValueError, match="workers: expected a whole number"):
        opened(three).check(workers=0)
