"""Common corruptions: their stated parameters, their random numbers, and what they leave alone."""

import jax
import numpy as np
import pytest
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from scipy import fft, ndimage, stats

import jaxprune as jp
from jaxprune.data import _blurs, _draws, _weather, corruptions

CORRUPTIONS = jp.data.CORRUPTIONS
FIXED = {
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
}  # without random numbers
SIZES = [(8, 8, 1), (20, 12, 3)]


def pictures(shape: tuple[int, int, int], count: int = 5) -> np.ndarray:
    noise = np.random.default_rng(0).random((count, *shape))
    return ndimage.gaussian_filter(noise, (0, 1, 1, 0)).astype(np.float32)


def grey(value: float, side: int = 100, count: int = 4) -> np.ndarray:
    return np.full((count, side, side, 1), value)


# ------------------------------------------------------------------------------------- what holds for all fifteen


def test_corruptions_are_the_fifteen_of_the_paper():
    assert len(set(CORRUPTIONS)) == 15
    assert (CORRUPTIONS[0], CORRUPTIONS[-1]) == ("gaussian_noise", "jpeg_compression")


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupt_is_a_function_of_images_name_severity_and_seed(name, shape):
    images = pictures(shape)
    kept = images.copy()
    got = jp.data.corrupt(images, name, 4, 7)
    assert (got.shape, got.dtype) == (images.shape, np.float32)
    assert 0.0 <= got.min() <= got.max() <= 1.0
    np.testing.assert_array_equal(images, kept)
    np.testing.assert_array_equal(jp.data.corrupt(images, name, 4, 7), got)
    assert np.array_equal(jp.data.corrupt(images, name, 4, 8), got) == (name in FIXED)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupt_depends_on_the_index_of_an_image_and_on_no_other_image(name, shape, monkeypatch):
    images = pictures(shape)
    whole = jp.data.corrupt(images, name, 3, 0)
    parts = [
        jp.data.corrupt(images[part], name, 3, 0, indices=np.arange(5)[part]) for part in np.split(np.arange(5), [2])
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = [3, 0, 4]
    np.testing.assert_array_equal(jp.data.corrupt(images[order], name, 3, 0, indices=order), whole[order])
    monkeypatch.setattr(corruptions, "_CHUNK", 1)
    np.testing.assert_array_equal(jp.data.corrupt(images, name, 3, 0), whole)


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - FIXED))
def test_corrupt_does_not_treat_equal_images_alike(name):
    got = jp.data.corrupt(np.repeat(pictures((16, 16, 1), 1), 2, axis=0), name, 5, 0)
    assert not np.array_equal(got[0], got[1])


@pytest.mark.parametrize("source", ["digits", "scenes"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupt_takes_images_further_from_the_clean_ones_with_severity(name, source):
    if source == "digits":
        images = jp.data.digits().pixels[:150]
    else:
        images = (jp.data.scenes(jax.random.key(0), 12, image=48).image / 255).astype(np.float32)
    moved = [jp.data.corrupt(images, name, severity, 0).astype(np.float64) - images for severity in range(1, 6)]
    assert np.all(np.diff([np.mean(move**2) for move in moved]) > 0)
    assert np.all(np.diff([np.mean(np.abs(move)) for move in moved]) > 0)
    assert np.mean(np.abs(moved[0])) > 0.002


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"])
def test_corrupt_lengths_are_in_proportion_to_the_image(name):
    def distance(side: int) -> float:
        y, x = (np.indices((side, side)) + 0.5) / side
        image = 0.5 + 0.5 * np.sin(2 * np.pi * (2 * x + y)) * np.cos(2 * np.pi * y)
        images = np.repeat(image[None, :, :, None], 30, axis=0)
        return float(np.sqrt(np.mean((jp.data.corrupt(images, name, 5, 0) - images) ** 2)))

    # From 64 pixels on what is added by reading between pixels is small.
    assert distance(160) == pytest.approx(distance(64), rel=0.1)


# -------------------------------------------------------------------------------------------------------- numbers


def test_draws_never_change_between_versions():
    got = _draws.Draws("jaxprune", 0, [3]).uniform(2)
    np.testing.assert_array_equal(got, [[0.14942542459892316, 0.13766717959934394]])


def test_draws_lie_strictly_inside_the_unit_interval(monkeypatch):
    class Extremes:
        def __init__(self, key: int) -> None:
            del key

        def random_raw(self, count: int) -> np.ndarray:
            return np.array([0, 2**64 - 1], np.uint64)[:count]

    monkeypatch.setattr(np.random, "Philox", Extremes)
    got = _draws.Draws("ends", 0, [0]).uniform(2)[0]
    assert 0 < got[0] < got[1] < 1
    assert np.all(np.isfinite(_draws.Draws("ends", 0, [0]).normal(2)))


def test_draws_are_uniform_and_normal_and_a_stream_goes_on():
    draws = _draws.Draws("test", 0, range(20))
    one, two = draws.uniform(500), draws.uniform(500)
    assert stats.kstest(np.concatenate([one, two], axis=None), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.03
    assert stats.kstest(draws.normal(500).ravel(), "norm").pvalue > 0.01
    other = _draws.Draws("other", 0, range(20)).uniform(500)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("mean", [0.0, 1e-6, 0.3, 1.0, 7.5, 60.0, 500.0])
def test_poisson_counts_are_scipys_quantiles(mean):
    uniform = np.concatenate([(np.arange(999) + 1) / 1000, [1e-12, 1 - 1e-12]])
    got = _draws.poisson(uniform, np.full_like(uniform, mean))
    np.testing.assert_array_equal(got, stats.poisson.ppf(uniform, mean) if mean else 0.0)


# ---------------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize(("severity", "std"), list(enumerate([0.04, 0.06, 0.08, 0.09, 0.10], start=1)))
def test_gaussian_noise_has_the_stated_deviation(severity, std):
    noise = jp.data.corrupt(grey(0.5), "gaussian_noise", severity, 0) - 0.5
    assert stats.kstest(noise.ravel() / std, "norm").pvalue > 0.01
    first = jp.data.corrupt(grey(0.5), "gaussian_noise", 1, 0) - 0.5
    inside = np.abs(noise) < 0.49
    # The same luck at every severity.
    np.testing.assert_allclose(noise[inside], std / 0.04 * first[inside], atol=1e-12)


@pytest.mark.parametrize(("severity", "photons"), list(enumerate([500, 250, 100, 75, 50], start=1)))
def test_shot_noise_counts_photons(severity, photons):
    got = jp.data.corrupt(grey(0.3), "shot_noise", severity, 0) * photons
    np.testing.assert_allclose(got, np.round(got), atol=1e-9)
    mean = 0.3 * photons
    assert got.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean / got.size))
    assert got.var() == pytest.approx(mean, rel=4 * np.sqrt(2 / got.size))
    assert np.all(jp.data.corrupt(grey(0.0, 8), "shot_noise", severity, 0) == 0)


@pytest.mark.parametrize(("severity", "share"), list(enumerate([0.01, 0.02, 0.03, 0.05, 0.07], start=1)))
def test_impulse_noise_sets_the_stated_share_to_black_and_white(severity, share):
    got = jp.data.corrupt(grey(0.3), "impulse_noise", severity, 0)
    for value in (0.0, 1.0):
        count = np.sum(got == value)
        assert stats.binomtest(int(count), got.size, share / 2).pvalue > 0.01
    assert set(np.unique(got)) == {0.0, 0.3, 1.0}


# ---------------------------------------------------------------------------------------------------------- blurs


@pytest.mark.parametrize("radius", [0.1, 0.36, 1.0, 2.5, 10.0])
def test_disc_is_a_mean_without_a_direction(radius):
    weights = _blurs.disc(radius)
    assert weights.shape == (2 * np.ceil(radius) + 1,) * 2
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    for turned in (weights.T, weights[::-1], weights[:, ::-1]):
        np.testing.assert_allclose(weights, turned, atol=1e-15)
    if radius < 1:
        # Linear between pixels, so the next column gets the mean of max(x, 0) over the disc: 2 r / (3 pi).
        assert weights.sum(axis=0)[-1] == pytest.approx(2 * radius / (3 * np.pi), rel=0.02)


@pytest.mark.parametrize("angle", [-0.7, 0.0, 0.4, 1.5])
@pytest.mark.parametrize("std", [0.25, 2.0, 9.0])
def test_trail_is_half_a_gaussian_in_its_direction(std, angle):
    weights = _blurs.trail(std, angle)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    place = np.arange(len(weights)) - len(weights) // 2
    centre = np.array([weights.sum(axis=1) @ place, weights.sum(axis=0) @ place])
    mean = std * stats.truncnorm(0, 3).mean()
    np.testing.assert_allclose(centre, mean * np.array([np.sin(angle), np.cos(angle)]), atol=0.06 * mean)


def test_blurs_filter_and_resample_as_scipy_does():
    rng = np.random.default_rng(0)
    images, weights = rng.random((2, 9, 7, 3)), rng.random((5, 5)) * (rng.random((5, 5)) > 0.3)
    expected = ndimage.correlate(images, weights[None, :, :, None], mode="nearest")
    np.testing.assert_allclose(_blurs.filtered(images, weights), expected, atol=1e-12)
    rows, columns = rng.uniform(-2, 10, (2, 2, 9, 7))
    got = _blurs.warped(images, rows, columns)
    for number in range(2):
        for channel in range(3):
            at = [rows[number], columns[number]]
            expected = ndimage.map_coordinates(images[number, ..., channel], at, order=1, mode="nearest")
            np.testing.assert_allclose(got[number, ..., channel], expected, atol=1e-12)
    np.testing.assert_allclose(
        _blurs.along(images[0, :, 0, 0], rows[0, 0], 0), np.interp(rows[0, 0], range(9), images[0, :, 0, 0])
    )


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("side", [8, 45])
@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate", "contrast"]
)
def test_corrupt_leaves_what_is_constant(name, side, severity):
    images = np.full((2, side, side + 3, 3), [0.0, 0.3, 1.0])
    np.testing.assert_allclose(jp.data.corrupt(images, name, severity, 0), images, atol=1e-12)


@pytest.mark.parametrize(("severity", "largest"), list(enumerate([1.06, 1.11, 1.16, 1.21, 1.26], start=1)))
def test_zoom_blur_is_the_mean_of_the_image_and_its_zooms(severity, largest):
    image = pictures((16, 12, 1), 1).astype(np.float64)
    zooms = [image[0, ..., 0]]
    for factor in np.arange(1.0, largest + 0.001, 0.01):
        rows, columns = np.indices((16, 12))
        at = [7.5 + (rows - 7.5) / factor, 5.5 + (columns - 5.5) / factor]
        zooms.append(ndimage.map_coordinates(image[0, ..., 0], at, order=1, mode="nearest"))
    got = jp.data.corrupt(image, "zoom_blur", severity, 0)[0, ..., 0]
    np.testing.assert_allclose(got, np.mean(zooms, axis=0), atol=1e-12)


# -------------------------------------------------------------------------------------------------------- weather


@pytest.mark.parametrize(("severity", "amount"), list(enumerate([0.2, 0.5, 0.75, 1.0, 1.5], start=1)))
def test_fog_spans_what_its_formula_says(severity, amount):
    got = jp.data.corrupt(grey(0.4, 24), "fog", severity, 0)
    # The plasma runs from 0 to 1: x m / (m + a) and m.
    np.testing.assert_allclose(got.min(axis=(1, 2)), 0.4 * 0.4 / (0.4 + amount), atol=1e-12)
    np.testing.assert_allclose(got.max(axis=(1, 2)), 0.4, atol=1e-12)
    assert np.all(jp.data.corrupt(grey(0.0, 8), "fog", severity, 0) == 0)


def test_plasma_is_rougher_where_fine_octaves_are_strong():
    def roughness(decay: float) -> float:
        field = _weather.plasma(_draws.Draws("test", 0, range(4)), (32, 20), decay)
        assert field.shape == (4, 32, 20)
        assert (field.min(), field.max()) == (0.0, 1.0)
        return float(np.mean(np.abs(np.diff(field, axis=1))))

    assert roughness(1.75) > 1.3 * roughness(3.0)


@pytest.mark.parametrize(
    ("severity", "kept", "added"), [(1, 1.0, 0.2), (2, 1.0, 0.3), (3, 0.95, 0.45), (4, 0.9, 0.6), (5, 0.8, 0.75)]
)
def test_frost_adds_ice_to_what_is_kept(severity, kept, added):
    images = np.full((4, 32, 32, 3), 0.1)
    ice = (jp.data.corrupt(images, "frost", severity, 0) - kept * 0.1) / added
    assert ice.min() > -1e-12
    assert 0.6 < ice[..., 2].max() <= 1.0
    # Crystals are thin: some pixels have little ice, and it is bluish.
    assert np.quantile(ice[..., 2], 0.2) < 0.3
    np.testing.assert_allclose(ice[..., 0], 0.86 * ice[..., 2], atol=1e-12)


def test_snow_only_whitens_and_falls_on_either_half_alike():
    dark = jp.data.corrupt(grey(0.0, 32), "snow", 3, 0)
    np.testing.assert_allclose(dark, dark[:, ::-1, ::-1], atol=1e-12)
    # What is black becomes half white, by the share that is whitened: 0.1.
    assert dark.min() == pytest.approx(0.05, abs=1e-12)
    images = pictures((16, 16, 3))
    assert np.all(jp.data.corrupt(images, "snow", 2, 0) >= images)


def test_snow_falls():
    dark = jp.data.corrupt(grey(0.0, 64, 8), "snow", 4, 0)[..., 0]
    across, down = (np.mean(np.diff(dark, axis=axis) ** 2) for axis in (2, 1))
    assert across > 2 * down


# -------------------------------------------------------------------------------------------------------- digital


@pytest.mark.parametrize(("severity", "amount"), list(enumerate([0.05, 0.1, 0.15, 0.2, 0.3], start=1)))
def test_brightness_raises_the_value_of_hsv(severity, amount):
    images = np.random.default_rng(0).random((3, 9, 8, 3))
    images[0, 0, 0] = 0
    colours = rgb_to_hsv(images)
    colours[..., 2] = np.minimum(colours[..., 2] + amount, 1)
    np.testing.assert_allclose(jp.data.corrupt(images, "brightness", severity, 0), hsv_to_rgb(colours), atol=1e-12)
    expected = np.minimum(images[..., :1] + amount, 1)
    np.testing.assert_allclose(jp.data.corrupt(images[..., :1], "brightness", severity, 0), expected, atol=1e-12)


@pytest.mark.parametrize(("severity", "share"), list(enumerate([0.75, 0.5, 0.4, 0.3, 0.15], start=1)))
def test_contrast_draws_each_channel_to_its_mean(severity, share):
    images = np.random.default_rng(0).random((3, 9, 8, 3))
    mean = images.reshape(3, -1, 3).mean(axis=1)[:, None, None]
    np.testing.assert_allclose(
        jp.data.corrupt(images, "contrast", severity, 0), share * images + (1 - share) * mean, atol=1e-12
    )


@pytest.mark.parametrize(("side", "cell"), [(8, 2), (16, 2), (32, 2), (64, 4)])
def test_pixelate_is_the_mean_of_blocks(side, cell):
    images = np.random.default_rng(0).random((2, side, side, 3))
    blocks = images.reshape(2, side // cell, cell, side // cell, cell, 3).mean(axis=(2, 4))
    expected = np.kron(blocks.transpose(0, 3, 1, 2), np.ones((cell, cell))).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(jp.data.corrupt(images, "pixelate", 5, 0), expected, atol=1e-12)


def test_averaged_cells_are_rounded_to_whole_pixels():
    got = _blurs.averaged(np.arange(8.0), 1.5, 0)
    assert got.tolist() == [0.5, 0.5, 2, 3.5, 3.5, 5, 6.5, 6.5]
    assert _blurs.averaged(np.arange(5.0), 1.1, 0).tolist() == [0, 1, 2, 3, 4]


# Annex K of the JPEG standard (ITU-T T.81), luminance: what quality 50 divides by.
QUANTA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def test_jpeg_compression_of_quality_fifty_is_the_cosine_transform_of_the_standard():
    images = jp.data.digits().pixels[:40].astype(np.float64)
    levels = np.floor(255 * images[..., 0] + 0.5) - 128
    spectrum = np.round(fft.dctn(levels, axes=(1, 2), norm="ortho") / QUANTA) * QUANTA
    expected = np.clip(np.round(np.asarray(fft.idctn(spectrum, axes=(1, 2), norm="ortho")) + 128), 0, 255)
    got = 255 * jp.data.corrupt(images, "jpeg_compression", 4, 0)[..., 0]
    np.testing.assert_allclose(got, np.round(got), atol=1e-9)
    # A coefficient just between two quanta may fall to either side in the integer arithmetic of a library.
    close = np.max(np.abs(got - expected), axis=(1, 2)) <= 1.5
    assert np.mean(close) >= 0.9


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"name": "fogg"}, ValueError, r"name: unknown value 'fogg'\. Did you mean 'fog'"),
        ({"severity": 0}, ValueError, r"severity: expected 1, 2, 3, 4 or 5, from mild to strong, but got 0"),
        ({"severity": 6}, ValueError, r"severity: expected 1, 2, 3, 4 or 5.*got 6"),
        ({"severity": True}, ValueError, r"severity: expected 1, 2, 3, 4 or 5.*got True"),
        ({"severity": 3.0}, ValueError, r"severity: expected 1, 2, 3, 4 or 5.*got 3\.0\. Pass a whole number"),
        ({"severity": np.float32(2)}, ValueError, r"severity: expected 1, 2, 3, 4 or 5.*Pass a whole number"),
        ({"images": np.zeros((2, 3, 32, 32))}, ValueError, r"images: .* channels last, .* \(2, 3, 32, 32\)"),
        (
            {"images": np.full((1, 8, 8, 1), 1.0000001, np.float32)},
            ValueError,
            r"images: .* they lie in \[1\.0000001, 1\.0000001\]\. That is no more than rounding",
        ),
        (
            {"images": np.zeros((8, 8, 1))},
            ValueError,
            r"images: .*\[n, h, w, c\].*got the shape \(8, 8, 1\).*last axis",
        ),
        (
            {"images": np.zeros((2, 8, 8, 2))},
            ValueError,
            r"images: .*c = 1 \(grey\) or 3.*got the shape \(2, 8, 8, 2\)",
        ),
        ({"images": np.zeros((2, 8, 7, 1))}, ValueError, r"images: .*8 x 8 pixels or more.*Enlarge"),
        ({"images": np.zeros((0, 8, 8, 1))}, ValueError, r"images: expected one or more images"),
        ({"images": np.zeros((1, 8, 8, 1), np.uint8)}, TypeError, r"images: .*but got uint8\. Divide by 255"),
        ({"images": np.full((1, 8, 8, 1), 255.0)}, ValueError, r"images: .*\[0, 1\], but they lie in \[255, 255\]"),
        ({"images": np.full((1, 8, 8, 1), -0.1)}, ValueError, r"images: .*lie in \[-0.1, -0.1\]. Corrupt before"),
        ({"images": np.full((1, 8, 8, 1), np.nan)}, ValueError, r"images: .*lie in \[nan, nan\]"),
        ({"indices": [0, 1]}, ValueError, r"indices: expected one whole number for each of the 1 images.*\(2,\)"),
        ({"indices": np.array([0.5])}, ValueError, r"indices: .*but got float64"),
    ],
)
def test_corrupt_names_bad_input_with_its_remedy(change, error, message):
    arguments = {"images": np.zeros((1, 8, 8, 1)), "name": "fog", "severity": 1, "seed": 0, **change}
    with pytest.raises(error, match=message):
        jp.data.corrupt(**arguments)
