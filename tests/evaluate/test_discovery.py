"""Object discovery: the closed-form checks L1 to L9 and CorLoc, and the papers' own arithmetic in NumPy and SciPy."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.cluster.vq
import scipy.linalg
import scipy.ndimage
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.evaluate import discovery
from jaxprune.evaluate._components import component
from jaxprune.evaluate.pseudo_labels import whitened


def planted(height: int, width: int, *objects: tuple[int, int, int, int]) -> np.ndarray:
    """Background e1, and -e1 in each (row, column, row, column), half-open: features [1, h, w, 4]."""
    features = np.zeros((1, height, width, 4))
    features[..., 0] = 1.0
    for y0, x0, y1, x1 in objects:
        features[:, y0:y1, x0:x1, 0] = -1.0
    return features


def box_of(features, image=(224, 224), scale=16, **options):
    return discovery.lost(features, image=image, scale=scale, **options).box[0].tolist()


ONE = (3, 5, 8, 10)


def test_lost_l1_finds_a_planted_object_its_degrees_and_its_seed():
    found = discovery.lost(planted(14, 14, ONE), image=(224, 224), scale=16)
    assert found.box.tolist() == [[48, 80, 128, 160]]
    inside = np.zeros((14, 14), bool)
    inside[3:8, 5:10] = True
    np.testing.assert_array_equal(found.mask[0], inside)
    np.testing.assert_array_equal(found.degree[0], np.where(inside, 24, 170))
    assert found.seed.tolist() == [[3, 5]]
    assert [each.dtype for each in (found.box, found.seed, found.degree)] == [jnp.int32] * 3


def test_lost_l2_keeps_the_box_under_noise():
    noise = 0.1 * np.random.default_rng(0).normal(size=(1, 14, 14, 4))
    assert box_of(planted(14, 14, ONE) + noise) == [48, 80, 128, 160]


def test_lost_l3_takes_of_two_like_objects_only_the_seeds():
    features = planted(14, 14, (1, 1, 4, 5), (8, 8, 11, 12))
    assert box_of(features) == [16, 16, 64, 80]


def test_lost_l4_keeps_squares_apart_that_touch_at_a_corner():
    assert box_of(planted(14, 14, (3, 3, 6, 6), (6, 6, 9, 9))) == [48, 48, 96, 96]


def test_lost_l5_takes_the_background_where_the_object_is_larger():
    features = planted(14, 14, (1, 1, 13, 13))
    assert box_of(features) == [0, 0, 224, 224]
    assert not discovery.lost(features).mask[0, 1:13, 1:13].any()


@pytest.mark.usefixtures("unchecked")
def test_lost_takes_the_size_of_an_image_as_an_array():
    assert box_of(planted(14, 14, (10, 10, 14, 14)), image=np.array([210, 200])) == [160, 160, 210, 200]


def test_lost_l6_clips_boxes_to_the_image_without_its_padding():
    features = planted(14, 14, (10, 10, 14, 14))
    assert box_of(features, image=(210, 200)) == [160, 160, 210, 200]
    # What lies in the padding alone keeps the last row of pixels: no box is empty.
    assert box_of(planted(14, 14, (13, 2, 14, 4)), image=(200, 224)) == [199, 32, 200, 64]


class IndexTokens:
    """A network whose tokens say which patch they are, the class token that it is none: [b, 1 + h w, heads, dim]."""

    def __init__(self, height: int, width: int, heads: int, name: str) -> None:
        self.grid, self.heads, self.name = (height, width), heads, name

    def __call__(self, params, state, images):
        height, width = self.grid
        places = jnp.eye(height * width)
        tokens = jnp.concatenate([jnp.full((1, height * width), 7.0), places])
        split = tokens.reshape(1 + height * width, self.heads, -1)
        split = jnp.broadcast_to(split, (len(images), *split.shape)) * params
        split = split if self.heads > 1 else split[:, :, 0]
        return images.mean(axis=(1, 2)) + checkpoint_name(split, self.name).sum()


# Seventeen tokens with sixteen heads could lie over the image as a map, but for the name.
@pytest.mark.parametrize(
    ("grid", "heads", "name"),
    [((4, 4), 2, "block0/keys"), ((4, 4), 16, "block0/keys"), ((2, 4), 1, "block0"), ((6, 8), 3, "queries")],
)
def test_tokens_l7_bring_token_i_to_place_i(grid, heads, name):
    images = np.zeros((2, 8 * grid[0], 8 * grid[1], 3))
    net = jp.Network(IndexTokens(*grid, heads, name), jnp.ones(()))
    features = discovery.tokens(net, images, name)
    expected = np.broadcast_to(np.eye(grid[0] * grid[1]).reshape(*grid, -1), features.shape)
    np.testing.assert_array_equal(features, expected)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_tokens_l7_of_our_networks_lie_where_their_patches_do(kind):
    if kind == "vit":
        module, site, shape = jp.models.vit(patch=8, image=32, width=8, heads=2, depth=1), "block0/keys", (4, 4)
    else:
        module = jp.models.swin_v2(patch=8, window=2, depths=(1,), width=8, heads=(2,), classes=2)
        site, shape = "stage1/block0/keys", (4, 6)
    images = np.random.default_rng(0).random((2, 8 * shape[0], 8 * shape[1], 3))
    shapes = jax.eval_shape(module.init, jax.random.key(0), images[:1])
    rng = np.random.default_rng(1)
    net = jp.Network.from_linen(module, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes))
    before = discovery.tokens(net, images, site)
    assert before.shape == (2, *shape, 8)
    images[1, 16:24, 8:16] += 1.0
    changed = np.any(np.asarray(before != discovery.tokens(net, images, site)), axis=-1)
    assert np.argwhere(changed).tolist() == [[1, 2, 1]]


def test_lost_l8_tells_height_from_width():
    features = planted(6, 10, (1, 6, 3, 9))
    found = discovery.lost(features, image=(96, 160))
    assert (found.box.tolist(), found.seed.tolist()) == ([[16, 96, 48, 144]], [[1, 6]])
    assert discovery.lost(features).box.tolist() == [[1, 6, 3, 9]]
    cut = discovery.token_cut(features, image=(96, 160))
    assert (cut.box.tolist(), cut.mask.shape) == ([[16, 96, 48, 144]], (1, 6, 10))


def test_standardised_l9_takes_the_whole_map_and_shift_and_scale_move_no_box():
    noise = 0.3 * np.random.default_rng(1).normal(size=(2, 9, 7, 5))
    features = 3.0 + np.concatenate([planted(9, 7, (2, 2, 5, 4)), planted(9, 7, (5, 0, 8, 3))])[..., :1] + noise
    made = np.asarray(discovery.standardised(features, eps=0.0))
    np.testing.assert_allclose(made.mean(axis=(1, 2, 3)), 0.0, atol=1e-14)
    np.testing.assert_allclose(made.var(axis=(1, 2, 3)), 1.0, rtol=1e-14)
    assert np.abs(made.mean(axis=(1, 2))).max() > 0.01  # over d too, not for each channel
    boxes = discovery.lost(discovery.standardised(features)).box
    for other in (features + 5.0, 0.25 * features, 10.0 * features - 40.0):
        np.testing.assert_array_equal(discovery.lost(discovery.standardised(other)).box, boxes)
    # eps as PyTorch's LayerNorm: divided by sqrt(variance + 1e-5).
    np.testing.assert_allclose(
        discovery.standardised(features)[0],
        (features[0] - features[0].mean()) / np.sqrt(features[0].var() + 1e-5),
        rtol=1e-12,
    )


def lost_in_numpy(features: np.ndarray, candidates: int):
    """LOST as the reference describes it (section 3a), with SciPy's connected components."""
    height, width, size = features.shape
    flat = features.reshape(-1, size)
    similarity = flat @ flat.T
    degree = (similarity > 0).sum(axis=1) - 1
    order = np.argsort(degree, kind="stable")
    seed = order[0]
    chosen = [place for place in order[:candidates] if similarity[seed, place] > 0]
    mask = (similarity[chosen].sum(axis=0) > 0).reshape(height, width)
    parts, _ = scipy.ndimage.label(mask)
    part = parts == parts.reshape(-1)[seed]
    rows, columns = np.nonzero(part)
    box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    return box, part, divmod(int(seed), width), degree.reshape(height, width)


@pytest.mark.parametrize("candidates", [1, 20, 1000])
def test_lost_equals_its_arithmetic_in_numpy(candidates):
    features = np.random.default_rng(2).normal(size=(12, 7, 9, 6))
    features = scipy.ndimage.gaussian_filter(features, (0, 1, 1, 0))
    found = discovery.lost(features, candidates=candidates)
    for number, image in enumerate(features):
        box, part, seed, degree = lost_in_numpy(image, candidates)
        assert found.box[number].tolist() == box
        assert tuple(found.seed[number].tolist()) == seed
        np.testing.assert_array_equal(found.mask[number], part)
        np.testing.assert_array_equal(found.degree[number], degree)


def test_discovery_finds_the_same_object_alone_and_among_others():
    features = np.random.default_rng(3).normal(size=(4, 6, 6, 5))
    for find in (discovery.lost, discovery.token_cut):
        together = find(features)
        for number in range(4):
            alone = find(features[number : number + 1])
            np.testing.assert_array_equal(alone.mask[0], together.mask[number])
            np.testing.assert_array_equal(alone.box[0], together.box[number])


def test_discovery_of_large_and_small_features_neither_overflows_nor_vanishes():
    features = planted(6, 6, (1, 1, 3, 4)).astype(np.float32)
    boxes = [discovery.lost(features * np.float32(factor)).box.tolist() for factor in (1e30, 1.0, 1e-30)]
    cuts = [discovery.token_cut(features * np.float32(factor)).box.tolist() for factor in (1e30, 1.0, 1e-30)]
    assert boxes == cuts == [[[1, 1, 3, 4]]] * 3
    assert discovery.lost(jnp.asarray(features, jnp.bfloat16)).box.tolist() == [[1, 1, 3, 4]]


def test_lost_of_places_without_features_follows_the_rule():
    assert discovery.lost(np.zeros((1, 3, 4, 2))).box.tolist() == [[0, 0, 1, 1]]
    dead = np.ones((1, 3, 4, 2))
    dead[:, 1, 2] = 0.0
    found = discovery.lost(dead)
    assert (found.seed.tolist(), found.box.tolist()) == ([[1, 2]], [[1, 2, 2, 3]])
    assert found.degree[0, 1, 2] == 0
    assert found.degree[0, 0, 0] == 10
    # All alike: one object, and it is everything.
    assert discovery.lost(np.ones((1, 3, 4, 2))).box.tolist() == [[0, 0, 3, 4]]


def test_lost_rounds_boxes_in_pixels_outward():
    features = planted(3, 3, (1, 1, 2, 2))
    assert discovery.lost(features, image=(10, 32)).box.tolist() == [[3, 10, 7, 22]]
    # A third is a third: three of them make one.
    assert discovery.lost(planted(6, 6, (3, 3, 5, 6)), image=(2, 2), scale=1 / 3).box.tolist() == [[1, 1, 2, 2]]
    assert discovery.lost(features, image=(100, 100), scale=(8, 20.5)).box.tolist() == [[8, 20, 16, 41]]


def test_component_follows_a_spiral_and_not_a_corner():
    spiral = np.array(
        [
            [1, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 1],
            [1, 1, 1, 1, 0, 1],
            [1, 0, 0, 1, 0, 1],
            [1, 1, 0, 0, 0, 1],
            [0, 1, 1, 1, 1, 1],
        ],
        bool,
    )
    random = np.random.default_rng(4).random((6, 6)) < 0.6
    masks = np.stack([spiral, random, spiral])
    seeds = np.array([[0, 0], np.argwhere(random)[0], [1, 1]])
    found = component(jnp.asarray(masks), jnp.asarray(seeds))
    parts, _ = scipy.ndimage.label(random)
    np.testing.assert_array_equal(found[0], spiral)
    np.testing.assert_array_equal(found[1], parts == parts[tuple(seeds[1])])
    # A seed outside of the mask belongs to it, and joins what it touches.
    expected = spiral.copy()
    expected[1, 1] = True
    np.testing.assert_array_equal(found[2], expected)


# --------------------------------------------------------------------------------------------------------- TokenCut


def cut_in_scipy(features: np.ndarray, threshold: float):
    """TokenCut's generalised eigenproblem and its rules, as the paper states them."""
    height, width, size = features.shape
    flat = features.reshape(-1, size)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    weights = np.where(flat @ flat.T > threshold, 1.0, 1e-5)
    degrees = np.diag(weights.sum(axis=1))
    values, vectors = scipy.linalg.eigh(degrees - weights, degrees)
    vector = vectors[:, 1] / np.linalg.norm(vectors[:, 1])
    side = vector > vector.mean()
    seed = np.argmax(np.abs(vector))
    if not side[seed]:
        vector, side = -vector, ~side
    parts, _ = scipy.ndimage.label(side.reshape(height, width))
    part = parts == parts.reshape(-1)[seed]
    return part, divmod(int(seed), width), vector.reshape(height, width), values[2] - values[1]


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_token_cut_equals_the_generalised_eigenproblem(threshold):
    features = np.random.default_rng(5).normal(size=(6, 6, 7, 5))
    features = scipy.ndimage.gaussian_filter(features, (0, 1, 1, 0))
    found = discovery.token_cut(features, threshold=threshold)
    for number, image in enumerate(features):
        part, seed, vector, gap = cut_in_scipy(image, threshold)
        np.testing.assert_allclose(found.vector[number], vector, atol=1e-9)
        np.testing.assert_allclose(found.gap[number], gap, atol=1e-12)
        np.testing.assert_array_equal(found.mask[number], part)
        assert tuple(found.seed[number].tolist()) == seed


def test_token_cut_boxes_the_smaller_side_of_two_blocks():
    """For two blocks of a and n - a places the vector is constant on each, larger on the smaller: (n - a)/a to 1."""
    found = discovery.token_cut(planted(6, 8, (1, 2, 4, 5)), image=(96, 128))
    assert found.box.tolist() == [[16, 32, 64, 80]]
    assert found.seed.tolist() == [[1, 2]]
    inside = found.mask[0]
    a, n = 9, 48
    # Orthogonal to (1, ..., 1) under D, whose entries are the degrees.
    small, large = a + 1e-5 * (n - a), n - a + 1e-5 * a
    ratio = -(n - a) * large / (a * small)
    np.testing.assert_allclose(found.vector[0][inside] / found.vector[0][0, 0], ratio, rtol=1e-9)
    assert found.gap[0] > 0.9


def test_token_cut_of_what_has_no_parts_is_the_whole_grid():
    for features in (np.ones((1, 3, 4, 2)), np.zeros((1, 3, 4, 2))):
        found = discovery.token_cut(features)
        assert (found.box.tolist(), found.gap.tolist()) == ([[0, 0, 3, 4]], [0.0])
        assert not found.vector.any()


def test_token_cut_of_two_equal_halves_takes_the_first():
    features = np.zeros((1, 4, 6, 2))
    features[:, :, :3, 0] = features[:, :, 3:, 1] = 1.0
    found = discovery.token_cut(features)
    assert (found.seed.tolist(), found.box.tolist()) == ([[0, 0]], [[0, 0, 4, 3]])


# ------------------------------------------------------------------------------------------------- boxes and CorLoc


def test_iou_of_a_box_moved_by_half_its_side_is_a_third():
    assert discovery.iou([[0, 0, 10, 10]], [[0, 5, 10, 15]]).tolist() == [[1 / 3]]


def test_iou_equals_counted_pixels():
    rng = np.random.default_rng(6)
    corners = np.sort(rng.integers(0, 12, size=(2, 7, 2, 2)), axis=2)
    corners[:, :, 1] += 1
    one, two = corners.transpose(0, 1, 2, 3).reshape(2, 7, 4)
    drawn = np.zeros((2, 7, 14, 14), bool)
    for side, boxes in enumerate((one, two)):
        for number, (y0, x0, y1, x1) in enumerate(boxes):
            drawn[side, number, y0:y1, x0:x1] = True
    both = (drawn[0][:, None] & drawn[1][None]).sum(axis=(2, 3))
    either = (drawn[0][:, None] | drawn[1][None]).sum(axis=(2, 3))
    np.testing.assert_array_equal(discovery.iou(one, two), both / either)


def test_corloc_counts_an_iou_of_exactly_one_half():
    boxes, truths = np.array([[0, 0, 10, 10]]), [np.array([[0, 0, 10, 5]])]
    assert discovery.corloc(boxes, truths).hits.tolist() == [True]
    assert discovery.corloc(boxes, truths, legacy=True).hits.tolist() == [False]
    assert discovery.corloc(boxes, truths, threshold=0.5000001).hits.tolist() == [False]
    better = [np.array([[0, 0, 10, 6]])]
    assert discovery.corloc(boxes, better, legacy=True).hits.tolist() == [True]


@pytest.mark.parametrize(("shared", "threshold"), [(7, 0.7), (3, 0.3), (1, 0.1), (9, 0.9), (1, Fraction(1, 10))])
def test_corloc_compares_whole_numbers_at_every_threshold(shared, threshold):
    """As a binary number 0.9 is a little more than 9/10: 9 of 10 pixels are a hit all the same."""
    boxes, truths = np.array([[0, 0, 1, 10]]), [np.array([[0, 0, 1, shared]])]
    assert discovery.corloc(boxes, truths, threshold=threshold).hits.tolist() == [True]
    assert discovery.corloc(boxes * 3, [truths[0] * 3], threshold=threshold).hits.tolist() == [True]
    assert discovery.corloc(boxes, truths, threshold=float(threshold) + 1e-6).hits.tolist() == [False]


def test_corloc_takes_any_of_several_true_boxes_and_leaves_out_images_without():
    boxes = np.array([[0, 0, 10, 10]] * 4)
    far, near = [50, 50, 60, 60], [0, 1, 10, 11]
    found = discovery.corloc(boxes, [np.array([far, near]), np.zeros((0, 4), np.int32), [far], np.array([near])])
    assert found.hits.tolist() == [True, False, True]
    assert found.counted.tolist() == [True, False, True, True]
    assert found.corloc == 2 / 3


def test_whole_image_and_centre_box_need_no_network():
    assert discovery.whole_image((30, 45), 2).tolist() == [[0, 0, 30, 45]] * 2
    assert discovery.centre_box((32, 32)).tolist() == [[8, 8, 24, 24]]
    assert discovery.centre_box((33, 5), share=0.5).tolist() == [[8, 1, 24, 3]]
    assert discovery.centre_box((9, 9), share=0.01).tolist() == [[4, 4, 5, 5]]
    assert discovery.centre_box((8, 8)).dtype == np.int32


# ---------------------------------------------------------------------------------------------------- pseudo-labels


class Means:
    """The mean colour of the image, and its two halves apart."""

    def __call__(self, params, state, images):
        half = images.shape[1] // 2
        means = jnp.concatenate([images[:, :half].mean(axis=(1, 2)), images[:, half:].mean(axis=(1, 2))], axis=1)
        return checkpoint_name(means * params, "features")


def squares(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thirty images of three classes, whose backgrounds say something else than the objects in the boxes."""
    classes, other = np.arange(30) % 3, rng.integers(3, size=30)
    images, boxes = np.zeros((30, 12, 16, 3)), np.zeros((30, 4), np.int32)
    for number in range(30):
        y, x = rng.integers(0, 7), rng.integers(0, 9)
        images[number, ..., other[number]] = 0.9
        images[number, y : y + 5, x : x + 6] = 0.1 * rng.random((5, 6, 3))
        images[number, y : y + 5, x : x + 6, classes[number]] += 0.8
        boxes[number] = (y, x, y + 5, x + 6)
    return images, boxes, classes


def test_pseudo_labels_sort_what_is_in_the_boxes():
    images, boxes, classes = squares(np.random.default_rng(7))
    net = jp.Network(Means(), jnp.ones(()))
    found = discovery.pseudo_labels(net, images, boxes, clusters=3, seed=0)
    assert discovery.agreement(found, classes) == (1.0, 1.0)
    np.testing.assert_array_equal(found, discovery.pseudo_labels(net, images, boxes, clusters=3, seed=0, batch=7))
    whole = discovery.pseudo_labels(net, images, discovery.whole_image((12, 16), 30), clusters=3, seed=0)
    assert discovery.agreement(whole, classes).information < 0.5


def test_whitened_scales_between_two_normalisations():
    rows = np.random.default_rng(10).normal(size=(9, 4)) * [1.0, 10.0, 0.1, 3.0]
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scaled = scipy.cluster.vq.whiten(units)
    expected = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    np.testing.assert_allclose(whitened(rows), expected, rtol=1e-12)
    constant = np.concatenate([rows, np.zeros((9, 1))], axis=1)
    np.testing.assert_allclose(whitened(constant)[:, :4], expected, rtol=1e-12)
    assert not whitened(np.ones((3, 2))).any()


def test_pseudo_labels_of_a_network_that_says_nothing_are_one_cluster():
    images, boxes, classes = squares(np.random.default_rng(8))
    found = discovery.pseudo_labels(jp.Network(Means(), jnp.zeros(())), images, boxes, clusters=3, seed=0)
    assert found.tolist() == [0] * 30
    assert discovery.agreement(found, classes) == (1 / 3, 0.0)


def test_agreement_by_chance_has_no_information_but_purity():
    rng = np.random.default_rng(9)
    draws = [discovery.agreement(rng.integers(5, size=40), rng.integers(5, size=40)) for _ in range(40)]
    assert abs(np.mean([draw.information for draw in draws])) < 0.02
    assert np.mean([draw.purity for draw in draws]) > 0.3
    assert discovery.agreement([0, 0, 1, 1, 2], [4, 5, 5, 5, 4]).purity == 4 / 5


# ------------------------------------------------------------------------------------------------------- bad input


class Tagged:
    """Tags values of several shapes."""

    def __call__(self, params, state, images):
        checkpoint_name(images.mean(axis=(1, 2)), "vector")
        tokens = jnp.zeros((len(images), 7, 2))
        checkpoint_name(tokens, "tokens")
        return checkpoint_name(images, "map").mean(axis=(1, 2)) * params


def attending(params, state, images):
    # Four heads of four tokens pass for a map of 4 x 4 places.
    return images.mean(axis=(1, 2)) * checkpoint_name(jnp.ones((len(images), 4, 4, 4)) / 4, "block0/attention").mean()


ATTENDING = jp.Network(attending, {})
TAGGED, IMAGES, BOX = jp.Network(Tagged(), np.ones(())), np.ones((2, 4, 4, 3)), [[0, 0, 2, 2]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: discovery.tokens(TAGGED, IMAGES, "maps"),
            ValueError,
            r"site: unknown value 'maps'. Did you mean 'map'.* Known: map, tokens, vector",
        ),
        (
            lambda: discovery.tokens(ATTENDING, IMAGES, "block0/attention"),
            ValueError,
            r"site: 'block0/attention' holds",
        ),
        (lambda: discovery.tokens(TAGGED, IMAGES, "vector"), ValueError, r"site: 'vector' is \(2, 3\), but object"),
        (lambda: discovery.tokens(TAGGED, IMAGES, "tokens"), ValueError, r"site: 'tokens' is \(2, 7, 2\), but object"),
        (lambda: discovery.tokens(TAGGED, IMAGES[0], "map"), ValueError, r"images: expected \[b, h, w, c\]"),
        (lambda: discovery.lost(IMAGES[0]), ValueError, r"features: expected \[b, h, w, d\].*\(4, 4, 3\)"),
        (lambda: discovery.lost(IMAGES[:0]), ValueError, r"features: expected \[b, h, w, d\]"),
        (lambda: discovery.lost(IMAGES * np.nan), ValueError, r"features: expected finite numbers"),
        (lambda: discovery.lost(IMAGES > 0), TypeError, r"features: expected floating-point features, but got bool"),
        (lambda: discovery.lost(IMAGES, candidates=0), ValueError, r"candidates: expected a whole number"),
        (lambda: discovery.lost(IMAGES, scale=8), ValueError, r"scale: expected an image with it"),
        (lambda: discovery.lost(IMAGES, image=(8, 8), scale=0), ValueError, r"scale: expected the pixels of a place"),
        (lambda: discovery.lost(IMAGES, image=(8, 0)), ValueError, r"image: expected \(height, width\) in whole"),
        (lambda: discovery.lost(IMAGES, image=(8, True)), ValueError, r"image: expected \(height, width\) in whole"),
        (lambda: discovery.lost(IMAGES, image=8), ValueError, r"image: expected \(height, width\) in whole"),
        (lambda: discovery.lost(IMAGES, image=(8, 8), scale="8"), ValueError, r"scale: expected .* but got '8'"),
        (lambda: discovery.corloc(BOX, [BOX], threshold="half"), ValueError, r"threshold: .* but got 'half'"),
        (
            lambda: discovery.token_cut(IMAGES, threshold="a"),
            ValueError,
            r"threshold: expected a cosine .* but got 'a'",
        ),
        (lambda: discovery.standardised(IMAGES[0]), ValueError, r"features: expected"),
        (lambda: discovery.token_cut(IMAGES, threshold=1.0), ValueError, r"threshold: expected a cosine in \(-1, 1\)"),
        (lambda: discovery.token_cut(IMAGES[:, :1, :2]), ValueError, r"features: expected 3 places or more.* 1 x 2"),
        (lambda: discovery.iou([[0, 0, 2.5, 2]], BOX), TypeError, r"boxes: expected whole pixels.*float64"),
        (lambda: discovery.iou(BOX, [[0, 0, 2]]), ValueError, r"others: expected boxes .*\(1, 3\)"),
        (lambda: discovery.iou(BOX, BOX[0]), ValueError, r"others: .* A single box needs an axis"),
        (lambda: discovery.iou([[0, 3, 2, 3]], BOX), ValueError, r"boxes: expected y0 < y1 and x0 < x1, but box 0"),
        (lambda: discovery.corloc(BOX, []), ValueError, r"truths: expected the true boxes of 1 images"),
        (lambda: discovery.corloc(BOX, [[]]), ValueError, r"truths: expected at least one image with a true box"),
        (lambda: discovery.corloc(BOX, [[[2, 0, 1, 1]]]), ValueError, r"truths\[0\]: expected y0 < y1"),
        (lambda: discovery.corloc(BOX, [BOX], threshold=0), ValueError, r"threshold: expected an IoU in \(0, 1\]"),
        (lambda: discovery.corloc(BOX, [BOX], threshold=np.nan), ValueError, r"threshold: expected an IoU"),
        (lambda: discovery.centre_box((4, 4), share=0), ValueError, r"share: expected a fraction of each side"),
        (lambda: discovery.centre_box((4, 4), 0), ValueError, r"n: expected a whole number of 1 or more"),
        (lambda: discovery.whole_image((4, 0)), ValueError, r"image: expected \(height, width\)"),
        (lambda: labelled(boxes=BOX), ValueError, r"boxes: expected one for each of 2 images, but got 1"),
        (lambda: labelled(boxes=[[0, 0, 5, 2]] * 2), ValueError, r"boxes: expected boxes inside of 4 x 4 pixels"),
        (lambda: labelled(clusters=3), ValueError, r"clusters: expected at most 2, the number of images, but got 3"),
        (lambda: labelled(clusters=0), ValueError, r"clusters: expected a whole number"),
        (lambda: labelled(site="features"), ValueError, r"site: unknown value 'features'.*Known: map, tokens, vector"),
        (lambda: labelled(site="map"), ValueError, r"site: expected one vector for each image.*'map' is \(2, 4, 4, 3"),
        (lambda: discovery.agreement([0, 1], [0]), ValueError, r"labels, classes: expected two arrays of one length"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_discovery_names_bad_input_with_its_remedy(call, error, message):
    with pytest.raises(error, match=message):
        call()


def labelled(**change):
    return discovery.pseudo_labels(
        TAGGED, IMAGES, **({"boxes": BOX * 2, "clusters": 2, "seed": 0, "site": "vector"} | change)
    )


def test_moved_tokens_lie_where_the_patches_lie():
    """A network whose keys are the mean places of its patches: twice as many of them, evenly spaced."""
    rows, columns = np.mgrid[:32, :32]
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1)[None].astype(np.float32)

    def apply(params, state, images):
        patches = images.reshape(len(images), 4, 8, 4, 8, 3).mean(axis=(2, 4)).reshape(len(images), 16, 3)
        tokens = jnp.concatenate([jnp.zeros_like(patches[:, :1]), patches], axis=1)
        return checkpoint_name(tokens, "block2/keys").mean(axis=1) * params

    found = np.asarray(discovery.moved_tokens(jp.Network(apply, jnp.ones(())), image, "block2/keys", patch=8))[0]
    assert found.shape == (8, 8, 3)
    inside = found[1:-1, 1:-1]  # at the edges the image repeats
    np.testing.assert_allclose(inside[:, 0, 0], 4 * np.arange(1, 7) + 1.5, atol=1e-5)
    np.testing.assert_allclose(inside[0, :, 1], 4 * np.arange(1, 7) + 1.5, atol=1e-5)
    for patch in (6, 0):
        with pytest.raises(ValueError, match="patch: expected a multiple of 4"):
            discovery.moved_tokens(jp.Network(apply, jnp.ones(())), image, "block2/keys", patch=patch)
