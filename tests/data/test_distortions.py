"""Parametric distortions: their closed forms, what they keep, and what they depend on."""

import numpy as np
import pytest
from scipy import ndimage, stats

from jaxprune.data import distortions
from jaxprune.data.distortions import DISTORTIONS, distort, mean_amplitude

ALL = [(name, level) for name, levels in DISTORTIONS.items() for level in levels]
RANDOM = {"phase-scrambling", "uniform-noise"}
GREY = 0.4423


def pictures(shape: tuple[int, int, int] = (16, 16, 3), count: int = 5) -> np.ndarray:
    noise = np.random.default_rng(0).random((count, *shape))
    return ndimage.gaussian_filter(noise, (0, 1, 1, 0))


def faint(shape: tuple[int, int, int] = (16, 16, 1), count: int = 4) -> np.ndarray:
    """Images so close to grey that nothing is clipped."""
    return 0.5 + 0.01 * (np.random.default_rng(1).random((count, *shape)) - 0.5)


def luminance(images: np.ndarray) -> np.ndarray:
    return images @ np.array([0.2125, 0.7154, 0.0721])


# ------------------------------------------------------------------------------------------ what holds for all of them


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "level"), ALL)
def test_distort_is_a_function_of_images_name_level_and_seed(name, level, channels):
    images = pictures((12, 12, channels)).astype(np.float32)
    kept = images.copy()
    got = distort(images, name, level, 7)
    assert (got.shape, got.dtype) == (images.shape, np.float32)
    assert 0.0 <= got.min() <= got.max() <= 1.0
    np.testing.assert_array_equal(images, kept)
    np.testing.assert_array_equal(distort(images, name, level, 7), got)
    other = distort(images, name, level, 8)
    assert np.array_equal(other, got) == (name not in RANDOM or float(level) == 0)
    if (name, level) != ("colour", "cr"):
        np.testing.assert_array_equal(got, np.repeat(got[..., :1], channels, axis=-1))


@pytest.mark.parametrize("shape", [(8, 8, 1), (13, 13, 3)])
@pytest.mark.parametrize("name", DISTORTIONS)
def test_distort_depends_on_the_index_of_an_image_and_on_no_other_image(name, shape, monkeypatch):
    images, level = pictures(shape), DISTORTIONS[name][-1]
    settings = {"amplitude": mean_amplitude(images)} if name == "power-equalisation" else {}
    whole = distort(images, name, level, 0, **settings)
    order = [3, 0, 4]
    np.testing.assert_array_equal(distort(images[order], name, level, 0, indices=order, **settings), whole[order])
    monkeypatch.setattr(distortions, "_CHUNK", 1)
    np.testing.assert_array_equal(distort(images, name, level, 0, **settings), whole)


@pytest.mark.parametrize(
    ("name", "level"),
    [(name, levels[0]) for name, levels in DISTORTIONS.items() if name not in ("colour", "high-pass", "uniform-noise")],
)
def test_distort_at_the_first_level_gives_the_grey_picture(name, level):
    images = pictures()
    expected = np.repeat(luminance(images)[..., None], 3, axis=-1)
    np.testing.assert_allclose(distort(images, name, level, 0), expected, atol=1e-12)


def test_distortions_have_the_levels_of_the_reference():
    values = {name: [level.strip("c") for level in levels] for name, levels in DISTORTIONS.items()}
    assert values["contrast"] == ["100", "50", "30", "15", "10", "05", "03", "01"]
    assert [float(level) for level in values["high-pass"]] == [np.inf, 3, 1.5, 1, 0.7, 0.55, 0.45, 0.4]
    assert [float(level) for level in values["low-pass"]] == [0, 1, 3, 5, 7, 10, 15, 40]
    assert [float(level) for level in values["phase-scrambling"]] == [0, 30, 60, 90, 120, 150, 180]
    assert [float(level) for level in values["uniform-noise"]] == [0, 0.03, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9]
    assert [float(level) for level in values["rotation"]] == [0, 90, 180, 270]
    assert DISTORTIONS["power-equalisation"] == ("0", "pow")
    assert DISTORTIONS["colour"] == ("cr", "bw")


# --------------------------------------------------------------------------------------------- colour, contrast, noise


def test_distort_keeps_or_drops_colour():
    images = pictures()
    np.testing.assert_array_equal(distort(images, "colour", "cr", 0), images)
    np.testing.assert_allclose(distort(images, "colour", "bw", 0)[..., 1], luminance(images), atol=1e-15)


@pytest.mark.parametrize("level", DISTORTIONS["contrast"])
def test_contrast_draws_grey_levels_to_one_half(level):
    images, share = pictures(), int(level[1:]) / 100
    expected = (1 - share) / 2 + share * luminance(images)
    np.testing.assert_allclose(distort(images, "contrast", level, 0)[..., 0], expected, atol=1e-12)


@pytest.mark.parametrize("level", DISTORTIONS["uniform-noise"])
def test_uniform_noise_stays_within_its_width_with_the_same_luck_at_every_level(level):
    images, width = pictures((48, 48, 1)), float(level)
    base = 0.35 + 0.3 * images
    noise = distort(images, "uniform-noise", level, 0) - base
    assert np.max(np.abs(noise)) <= width + 1e-12
    inside = np.abs(noise + base - 0.5) < 0.5
    if width > 0:
        unit = (distort(images, "uniform-noise", "0.2", 0) - base) / 0.2
        np.testing.assert_allclose(noise[inside], width * unit[inside], atol=1e-12)
    if width == 0.2:
        assert inside.all()
        assert stats.kstest(noise.ravel(), "uniform", args=(-0.2, 0.4)).pvalue > 0.01


# ------------------------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize("level", DISTORTIONS["low-pass"])
def test_low_pass_keeps_the_grey_that_surrounds_it(level):
    images = np.full((1, 24, 24, 1), GREY)
    np.testing.assert_allclose(distort(images, "low-pass", level, 0), images, atol=1e-12)


@pytest.mark.parametrize("level", DISTORTIONS["low-pass"][1:])
def test_low_pass_is_a_gaussian_of_that_many_pixels_at_224(level):
    images = np.full((1, 224, 224, 1), GREY)
    images[0, 112, 112] = 1.0
    got = distort(images, "low-pass", level, 0)[0, ..., 0] - GREY
    std, place = float(level), np.arange(224) - 112
    line = np.exp(-0.5 * (place / std) ** 2)
    # The filter ends at four deviations, and is cut to whole pixels there.
    line[np.abs(place) > int(4 * std + 0.5)] = 0
    whole = np.arange(-int(4 * std + 0.5), int(4 * std + 0.5) + 1)
    line /= np.sum(np.exp(-0.5 * (whole / std) ** 2))
    np.testing.assert_allclose(got, (1 - GREY) * np.outer(line, line), atol=1e-12)


def test_low_pass_width_is_in_proportion_to_the_shorter_side():
    images = pictures((32, 40, 1))
    expected = ndimage.gaussian_filter(images[..., 0], (0, 1.0, 1.0), mode="constant", cval=GREY)
    np.testing.assert_allclose(distort(images, "low-pass", "7", 0)[..., 0], expected, atol=1e-12)
    np.testing.assert_allclose(distort(images, "low-pass", "1", 0, reference=32)[..., 0], expected, atol=1e-12)


@pytest.mark.parametrize("level", DISTORTIONS["high-pass"][1:])
def test_high_pass_and_low_pass_are_the_picture_up_to_a_shift(level):
    images = faint((32, 32, 1))
    low = ndimage.gaussian_filter(images[..., 0], (0, *[float(level)] * 2), mode="constant", cval=GREY)
    high = distort(images, "high-pass", level, 0, reference=32)[..., 0]
    np.testing.assert_allclose(high.mean(axis=(1, 2)), GREY, atol=1e-12)
    rest = high + low - images[..., 0]
    np.testing.assert_allclose(rest, np.broadcast_to(rest[:, :1, :1], rest.shape), atol=1e-12)


def test_high_pass_without_end_moves_the_mean():
    images = faint((12, 12, 1))
    expected = images - images.mean(axis=(1, 2), keepdims=True) + GREY
    np.testing.assert_allclose(distort(images, "high-pass", "inf", 0), expected, atol=1e-12)
    wide = distort(images, "high-pass", "3.0", 0, reference=0.05)
    np.testing.assert_allclose(wide, expected, atol=1e-4)


def test_high_pass_that_is_strict_leaves_nothing_of_small_images():
    images = pictures((32, 32, 1))
    assert np.std(distort(images, "high-pass", "1.5", 0)) < 1e-4 < np.std(distort(images, "high-pass", "3.0", 0))


# ------------------------------------------------------------------------------------------------------------- spectra


@pytest.mark.parametrize("shape", [(16, 16, 1), (9, 13, 1), (12, 9, 1)])
@pytest.mark.parametrize("level", DISTORTIONS["phase-scrambling"])
def test_phase_scrambling_keeps_every_amplitude_and_turns_phases_within_its_width(level, shape):
    images = faint(shape)
    before, after = (np.fft.fft2(x[..., 0]) for x in (images, distort(images, "phase-scrambling", level, 0)))
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=1e-10)
    turned = np.degrees(np.angle(after / before))
    assert np.max(np.abs(turned)) <= float(level) + 1e-6
    height, width = shape[:2]
    own = (2 * np.arange(height) % height == 0)[:, None] & (2 * np.arange(width) % width == 0)
    np.testing.assert_allclose(turned[:, own], 0, atol=1e-9)
    if level == "90":
        assert np.all(np.abs(turned[:, ~own]) > 0)
        assert stats.kstest(turned[:, 1 : (height - 1) // 2, 1:].ravel(), "uniform", args=(-90, 180)).pvalue > 0.01


@pytest.mark.parametrize("shape", [(16, 16, 3), (9, 12, 1)])
def test_power_equalisation_gives_the_mean_amplitude_and_keeps_phases(shape):
    images = faint(shape)
    grey = luminance(images) if shape[2] == 3 else images[..., 0]
    spectra = np.fft.fft2(grey)
    amplitude = mean_amplitude(images)
    np.testing.assert_allclose(amplitude, np.abs(spectra).mean(axis=0), atol=1e-10)
    after = np.fft.fft2(distort(images, "power-equalisation", "pow", 0)[..., 0])
    np.testing.assert_allclose(np.abs(after), np.broadcast_to(amplitude, after.shape), atol=1e-10)
    np.testing.assert_allclose(np.angle(after / spectra), 0, atol=1e-8)
    alone = distort(images[:1], "power-equalisation", "pow", 0)
    # Alone an image has its own amplitude: nothing changes.
    np.testing.assert_allclose(alone[..., 0], grey[:1], atol=1e-12)


def test_power_equalisation_gives_a_missing_frequency_the_phase_zero():
    images = np.full((1, 8, 8, 1), 0.3)
    amplitude = np.zeros((8, 8))
    amplitude[0, 0], amplitude[0, 1], amplitude[0, 7] = 0.5 * 64, 0.1 * 32, 0.1 * 32
    got = distort(images, "power-equalisation", "pow", 0, amplitude=amplitude)[0, ..., 0]
    np.testing.assert_allclose(got, np.tile(0.5 + 0.1 * np.cos(2 * np.pi * np.arange(8) / 8), (8, 1)), atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ rotation


def test_rotation_by_four_quarter_turns_is_none():
    images = pictures((12, 12, 1))
    turned = images
    for angle in ("90", "180", "270"):
        turned = distort(turned, "rotation", "90", 0)
        np.testing.assert_array_equal(distort(images, "rotation", angle, 0), turned)
    np.testing.assert_array_equal(distort(turned, "rotation", "90", 0), images)


def test_rotation_by_a_quarter_is_anticlockwise_and_swaps_height_and_width():
    images = np.zeros((1, 8, 10, 1))
    images[0, 0, 9] = 1  # the upper right corner goes to the upper left
    got = distort(images, "rotation", "90", 0)
    assert got.shape == (1, 10, 8, 1)
    assert np.argwhere(got[0, ..., 0]).tolist() == [[0, 0]]


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"name": "contrasts"}, ValueError, r"name: unknown value 'contrasts'\. Did you mean 'contrast'"),
        ({"name": "eidolonI"}, ValueError, r"name: unknown value 'eidolonI'.*Known: colour, contrast"),
        ({"level": "c5"}, ValueError, r"level: unknown value 'c5'\. Did you mean 'c"),
        ({"level": "c2"}, ValueError, r"Known: c100, c50, c30, c15, c10, c05, c03, c01\."),
        ({"reference": 0.0}, ValueError, r"reference: expected a finite number above 0"),
        ({"images": np.zeros((8, 8, 1))}, ValueError, r"images: .*\[n, h, w, c\].*got the shape \(8, 8, 1\)"),
        ({"images": np.zeros((1, 8, 8, 1), np.uint8)}, TypeError, r"images: .*but got uint8\. Divide by 255"),
        ({"images": np.full((1, 8, 8, 1), 2.0)}, ValueError, r"images: .*\[0, 1\], but they lie in \[2, 2\]"),
        ({"indices": [0, 1]}, ValueError, r"indices: expected one whole number for each of the 1 images.*\(2,\)"),
        ({"amplitude": np.zeros((8, 8))}, ValueError, r"amplitude: expected it with 'power-equalisation' only.*'contr"),
        (
            {"name": "power-equalisation", "level": "pow", "amplitude": np.zeros((8, 9))},
            ValueError,
            r"amplitude: .*\[h, w\] = \(8, 8\), but got the shape \(8, 9\).*mean_amplitude",
        ),
        (
            {"name": "power-equalisation", "level": "pow", "amplitude": np.full((8, 8), -1.0)},
            ValueError,
            r"amplitude: expected numbers of 0 or more.*lowest -1",
        ),
    ],
)
def test_distort_names_bad_input_with_its_remedy(change, error, message):
    arguments = {"images": np.zeros((1, 8, 8, 1)), "name": "contrast", "level": "c10", "seed": 0, **change}
    with pytest.raises(error, match=message):
        distort(**arguments)
