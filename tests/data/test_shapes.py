import dataclasses
import hashlib
import itertools

import jax
import numpy as np
import pytest
from scipy.stats import chi2_contingency
from sklearn.neighbors import KNeighborsClassifier

from jaxprune.data import _layout
from jaxprune.data._layout import PALETTE, grain, layout, turned
from jaxprune.data._outlines import OUTLINES, coverage, visible
from jaxprune.data.shapes import COLOURS, SHAPES, TEXTURES, Scenes, scenes

KEY = jax.random.key(0)


def same(left: Scenes, right: Scenes) -> None:
    for field in dataclasses.fields(Scenes):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name), err_msg=field.name)


def first(made: Scenes, count: int) -> Scenes:
    return Scenes(**{field.name: getattr(made, field.name)[:count] for field in dataclasses.fields(Scenes)})


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def test_scenes_have_fields_of_the_documented_types():
    made = scenes(KEY, 4, image=40, objects=(1, 3))
    got = {field.name: getattr(made, field.name) for field in dataclasses.fields(Scenes)}
    assert {name: (str(value.dtype), value.shape) for name, value in got.items()} == {
        "image": ("uint8", (4, 40, 40, 3)),
        "shape": ("int32", (4, 3)),
        "texture": ("int32", (4, 3)),
        "colour": ("int32", (4, 3)),
        "size": ("float32", (4, 3)),
        "position": ("float32", (4, 3, 2)),
        "background": ("int32", (4,)),
        "mask": ("bool", (4, 3, 40, 40)),
        "box": ("int32", (4, 3, 4)),
    }
    assert (len(SHAPES), len(TEXTURES), len(COLOURS)) == (10, 10, 8)


# Made with NumPy 2.4.6 and JAX 0.10.2, and found the same with NumPy 1.26.4 and JAX 0.4.30, and without AVX and FMA.
@pytest.mark.parametrize(
    ("options", "image", "mask"),
    [
        ({"count": 300, "difficulty": 0.8}, "36463ef666cec5c1", "cf14f141c4290259"),
        ({"count": 60, "objects": (1, 4), "difficulty": 0.7}, "26558104bbb9c0a7", "352229e8b5f8bcc0"),
        ({"count": 10, "objects": 9, "difficulty": 1.0, "image": 70}, "301b18fbc3a9f2ec", "adb4a3ab1867c7fb"),
    ],
)
def test_scenes_are_the_same_bytes_on_every_machine(options, image, mask):
    made = scenes(jax.random.key(3), **options)
    assert (digest(made.image), digest(made.mask)) == (image, mask)


def test_scenes_depend_on_the_key_and_their_index_only():
    many = scenes(KEY, 150, objects=(1, 3))  # more than one chunk
    same(scenes(KEY, 5, objects=(1, 3)), first(many, 5))
    assert digest(scenes(jax.random.key(1), 5, objects=(1, 3)).image) != digest(many.image[:5])
    for a, b in itertools.combinations(range(20), 2):
        assert not np.array_equal(many.image[a], many.image[b])


def test_scenes_of_typed_and_legacy_keys_agree():
    same(scenes(jax.random.key(5), 3), scenes(jax.random.PRNGKey(5), 3))
    same(scenes(jax.random.key(5), 3), scenes(np.array([0, 5], np.uint32), 3))


@pytest.mark.parametrize("objects", [1, 3])
def test_scenes_are_the_same_at_two_resolutions(objects):
    small, large = (scenes(KEY, 60, image=image, objects=objects, difficulty=0.5) for image in (32, 64))
    for name in ("shape", "texture", "colour", "size", "position", "background"):
        np.testing.assert_array_equal(getattr(small, name), getattr(large, name))
    halves = large.mask.reshape(60, objects, 32, 2, 32, 2).mean((3, 5)) >= 0.5
    overlap = (halves & small.mask).sum((2, 3)) / (halves | small.mask).sum((2, 3))
    assert overlap.mean() > 0.9
    shrunk = large.image.reshape(60, 32, 2, 32, 2, 3).astype(np.float64).mean((2, 4))
    assert np.abs(shrunk - small.image).mean() < 8.0  # of 255; most of it is noise


@pytest.mark.parametrize(("objects", "difficulty"), [(1, 0.0), (1, 1.0), ((1, 4), 0.5), (9, 0.5), (9, 1.0)])
def test_scenes_have_visible_objects_disjoint_masks_and_tight_boxes(objects, difficulty):
    made = scenes(KEY, 120, objects=objects, difficulty=difficulty)
    assert made.mask.sum(1).max() == 1
    present = made.shape >= 0
    np.testing.assert_array_equal(made.mask.any((2, 3)), present)
    for name in ("texture", "colour"):
        np.testing.assert_array_equal(getattr(made, name) >= 0, present)
    assert not made.box[~present].any()
    assert not made.size[~present].any()
    assert not made.position[~present].any()
    for mask, (y0, x0, y1, x1) in zip(made.mask[present], made.box[present], strict=True):
        rows, columns = np.nonzero(mask)
        assert (y0, x0, y1, x1) == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)


@pytest.mark.parametrize("difficulty", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("objects", [(2, 4), (5, 9)])
def test_layout_lets_objects_overlap_but_show_half_of_their_pixels(objects, difficulty):
    plan = layout(5, 0, 300, objects, difficulty, (None, None, None))
    covered = coverage(plan.shape, plan.size, plan.position, plan.direction, 32)
    own, shown = (covered >= 0.5).sum((2, 3)), visible(covered).sum((2, 3))
    assert (2 * shown >= own).all()
    assert (shown < own).any() or difficulty < 0.5


def test_layout_fits_every_object_into_its_cell(monkeypatch):
    # So the last resort of the placement, each object in its own cell, hides nothing.  Sizes are drawn before places,
    # and what the textures are does not matter.
    monkeypatch.setattr(_layout, "_places", lambda key, first, shape, *_: np.zeros((*shape.shape, 2)))
    textures = dict.fromkeys(("period", "weave", "phase", "table"), np.zeros(0))
    monkeypatch.setattr(_layout, "_weaving", lambda *_: textures)
    for difficulty, number in itertools.product(np.linspace(0.0, 1.0, 21), range(2, 10)):
        plan = layout(5, 0, 200, (number, number), float(difficulty), (None, None, None))
        assert plan.size.max() * np.ceil(np.sqrt(number)) <= 1.0


def test_scenes_have_a_uniform_number_of_objects():
    number = (scenes(KEY, 600, objects=(2, 4)).shape >= 0).sum(1)
    assert sorted(set(number.tolist())) == [2, 3, 4]
    assert np.bincount(number)[2:].min() > 160


def test_scenes_have_uniform_and_independent_factors():
    made = scenes(jax.random.key(11), 6000, difficulty=1.0)
    terciles = {
        name: np.searchsorted(np.quantile(value, [1 / 3, 2 / 3]), value)
        for name, value in (("size", made.size[:, 0]), ("y", made.position[:, 0, 0]), ("x", made.position[:, 0, 1]))
    }
    factors = {
        "shape": made.shape[:, 0],
        "texture": made.texture[:, 0],
        "colour": made.colour[:, 0],
        "background": made.background,
        **terciles,
    }
    for (left, a), (right, b) in itertools.combinations(factors.items(), 2):
        table = np.zeros((a.max() + 1, b.max() + 1))
        np.add.at(table, (a, b), 1)
        # 21 pairs: by chance the smallest p is near 1/21.
        assert chi2_contingency(table).pvalue > 0.001, (left, right)
    for name, classes in (("shape", 10), ("texture", 10), ("colour", 8), ("background", 10)):
        counts = np.bincount(factors[name], minlength=classes)
        assert ((counts - 6000 / classes) ** 2 / (6000 / classes)).sum() < 28.0, name  # 0.1 % of chi-square, 9 d.o.f.


def test_scenes_keep_fixed_factors_and_change_nothing_else():
    free = scenes(KEY, 20)
    texture, colour = np.arange(20) % 10, np.full((20, 1), 3)
    made = scenes(KEY, 20, texture=texture, colour=colour)
    np.testing.assert_array_equal(made.texture[:, 0], texture)
    np.testing.assert_array_equal(made.colour, colour)
    for name in ("shape", "size", "position", "background", "mask"):
        np.testing.assert_array_equal(getattr(made, name), getattr(free, name))


def test_scenes_take_factors_for_each_object():
    shape = np.arange(12).reshape(4, 3) % 10
    np.testing.assert_array_equal(scenes(KEY, 4, objects=3, shape=shape).shape, shape)
    made = scenes(KEY, 40, objects=(1, 3), shape=np.full(40, 7))
    assert set(np.unique(made.shape)) == {-1, 7}


def test_scenes_difficulty_does_what_it_says():
    easy, middle, hard = (scenes(KEY, 400, difficulty=d) for d in (0.0, 0.5, 1.0))
    assert easy.size.mean() > middle.size.mean() + 0.2 > hard.size.mean() + 0.4
    assert (easy.position == 0.5).all()
    assert hard.position.std() > middle.position.std() > 0.1

    def ground(made: Scenes, kind: str) -> float:
        chosen = made.background == TEXTURES.index(kind)
        hidden = made.mask[chosen, 0]
        return float(np.mean([image[~mask].std(0) for image, mask in zip(made.image[chosen], hidden, strict=True)]))

    # Before a plain ground only noise (and the object's soft edge) is left; stripes add their own contrast.
    assert ground(easy, "plain") < 12.0 < ground(hard, "plain")
    assert ground(easy, "stripes") + 15.0 < ground(hard, "stripes")

    def contrast(made: Scenes) -> float:
        pairs = zip(made.image.astype(np.float64), made.mask[:, 0], strict=True)
        return float(np.mean([np.abs(image[mask].mean(0) - image[~mask].mean(0)) for image, mask in pairs]))

    assert contrast(easy) > contrast(middle) + 10.0 > contrast(hard) + 20.0


def test_scenes_at_difficulty_0_turn_nothing():
    made = scenes(KEY, 10, image=64, difficulty=0.0, shape=np.full(10, SHAPES.index("arrow")))
    np.testing.assert_array_equal(made.mask, made.mask[..., ::-1])
    assert (made.mask[:, 0, :32].sum((1, 2)) > made.mask[:, 0, 32:].sum((1, 2))).all()  # the head is up


def test_outlines_fit_the_unit_circle_and_are_distances():
    y, x = np.meshgrid(*[np.linspace(-1.3, 1.3, 521)] * 2, indexing="ij")
    radius = np.sqrt(y * y + x * x)
    for name, outline in OUTLINES.items():
        distance = outline(y, x)
        assert radius[distance <= 0].max() == pytest.approx(1.0, abs=0.015), name
        steep = np.hypot(*np.gradient(distance, 0.005))[1:-1, 1:-1]
        near = (np.abs(distance) < 0.02)[1:-1, 1:-1]
        assert np.median(steep[near]) == pytest.approx(1.0, abs=0.01), name


def test_turned_is_a_rotation():
    turns = np.linspace(-0.5, 0.5, 101)
    expected = np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=-1)
    np.testing.assert_allclose(turned(turns), expected, atol=1e-3)
    np.testing.assert_allclose((turned(turns) ** 2).sum(-1), 1.0, atol=1e-14)


def test_grain_is_standard_noise():
    noise = grain(7, 0, 400)
    assert noise.mean() == pytest.approx(0.0, abs=0.01)
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    assert (noise**4).mean() == pytest.approx(3.0 - 1.2 / 4.0, abs=0.05)  # the kurtosis of four uniform numbers


def test_scenes_have_shapes_and_textures_that_can_be_told_apart():
    made = scenes(KEY, 2400, difficulty=0.1)
    pixels = made.image.astype(np.float64)
    ground = np.median(np.concatenate([pixels[:, 0], pixels[:, -1]], axis=1), axis=1)
    differs = np.abs(pixels - ground[:, None, None]).max(-1)
    figure = (differs / differs.max((1, 2), keepdims=True) > 0.35).reshape(len(pixels), -1)
    patch = pixels[:, 9:23, 9:23] @ np.array([0.3, 0.6, 0.1])
    patch = patch - patch.mean((1, 2), keepdims=True)
    spectrum = np.log1p(np.abs(np.fft.rfft2(patch / (5.0 + patch.std((1, 2), keepdims=True))))).reshape(len(pixels), -1)
    for features, labels, least in ((figure, made.shape[:, 0], 0.8), (spectrum, made.texture[:, 0], 0.5)):
        model = KNeighborsClassifier(5).fit(features[:2000], labels[:2000])
        assert model.score(features[2000:], labels[2000:]) > least


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, r"count: expected a whole number of 1 or more, but got 0\. Ask for at least one"),
        ({"count": 2.0}, r"count: expected a whole number"),
        ({"image": 31}, r"image: expected a whole number of 32 or more, but got 31\. .*resize"),
        ({"difficulty": 1.5}, r"difficulty: expected a number in \[0, 1\].*got 1\.5\. Pass 0\.5"),
        ({"difficulty": float("nan")}, r"difficulty: expected a number in \[0, 1\].*got nan"),
        ({"objects": 0}, r"objects: expected a whole number from 1 to 9, but got 0\. Pass a number such as 3"),
        ({"objects": 10}, r"objects: expected a whole number from 1 to 9, but got 10"),
        ({"objects": (3, 1)}, r"objects: expected low <= high, but got \(3, 1\)\. Pass \(1, 3\)"),
        ({"objects": (1, 2, 3)}, r"objects: expected a number or \(low, high\), but got \(1, 2, 3\)"),
        ({"shape": [0, 10, 1, 2]}, r"shape: expected indices in \[0, 10\), but got 10\. They are: 0 disc, 1 square"),
        ({"texture": [-1, 0, 1, 2]}, r"texture: expected indices in \[0, 10\), but got -1\. They are: 0 plain"),
        ({"colour": [0, 8, 1, 2]}, r"colour: expected indices in \[0, 8\), but got 8\. They are: 0 red"),
        ({"shape": [0, 1]}, r"shape: expected the shape \(4,\) or \(4, 1\).*got \(2,\).*np\.full\(4, index\)"),
        ({"shape": np.zeros((4, 2), int)}, r"shape: expected the shape \(4,\) or \(4, 1\).*got \(4, 2\)"),
        ({"texture": [0.0, 1.0, 2.0, 3.0]}, r"texture: expected integer indices, but got float64.*TEXTURES\.index"),
        ({"key": 0}, r"key: expected one JAX PRNG key, but got int64\[\]\. Make one with jax\.random\.key"),
        ({"key": jax.random.split(KEY, 3)}, r"key: expected one JAX PRNG key, but got uint32\[3, 2\].*one at a time"),
    ],
)
def test_scenes_name_bad_input(unchecked, options, message):
    options = {"key": KEY, "count": 4, **options}
    with pytest.raises(ValueError, match=message):
        scenes(**options)


def test_layout_palette_has_a_colour_for_every_name():
    assert tuple(PALETTE) == COLOURS
    assert len({tones[0] for tones in PALETTE.values()}) == len(COLOURS)
