"""Attribution against Captum's arrays (scripts/golden_attribution), closed forms, and NumPy.

A letter and a number in the name of a test, such as a3, are its number among the facts of the reference, section 8.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp
from jaxprune.evaluate import _requests, attribution, grad_cam, relevance

KEY = jax.random.key(0)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape)


def convolve(images, kernel, stride=1, padding="SAME"):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, kernel, (stride, stride), padding, dimension_numbers=numbers)


def flattened(images):
    return images.reshape(len(images), -1)


def linear(weights):
    """One logit for each column of the weights [h w c, classes]."""
    return jp.Network(_linear, jnp.asarray(weights))


def _linear(params, state, images):
    return flattened(images) @ params


# ---------------------------------------------------------------------------------------------------------- Captum


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "attribution.npz") as file:
        return dict(file)


def small(golden, dtype=np.float64):
    """The network of scripts/golden_attribution."""
    params: dict = {}
    for name in golden:
        if name.startswith("weight:"):
            layer, leaf = name.removeprefix("weight:").split("/")
            params.setdefault(layer, {})[leaf] = jnp.asarray(golden[name], dtype)
    return jp.Network(_small, params)


def _small(params, state, images):
    x = jax.nn.relu(convolve(images, params["conv1"]["kernel"]) + params["conv1"]["bias"])
    x = checkpoint_name(jax.nn.relu(convolve(x, params["conv2"]["kernel"], 2, "VALID")), "relu2")
    y = convolve(x, params["conv3"]["kernel"]) + params["conv3"]["bias"]
    x = checkpoint_name(jax.nn.relu(x + y), "relu3")
    return jnp.mean(x, axis=(1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


NOISE = {"samples": 4, "std": 0.1, "key": KEY}
FEW = ["input_times_gradient", "integrated_baseline", "guided_grad_cam:relu2"]
INTEGRATED = partial(attribution.integrated_gradients, steps=7)
METHODS = {
    "gradient": lambda golden: attribution.gradient(),
    "input_times_gradient": lambda golden: attribution.input_times_gradient(),
    "integrated": lambda golden: INTEGRATED(),
    "integrated_baseline": lambda golden: INTEGRATED(baseline=golden["baseline"]),
    "guided": lambda golden: attribution.guided_backpropagation(),
    # The bias of conv1 names the sum of the convolution and the bias, which is what the module in PyTorch gives.
    **{
        f"grad_cam:{layer}": lambda golden, site=site: attribution.grad_cam(site)
        for layer, site in {"conv1": "conv1/bias", "conv2": "conv2/kernel", "relu2": "relu2", "relu3": "relu3"}.items()
    },
    **{
        f"guided_grad_cam:{layer}": lambda golden, site=site: attribution.guided_grad_cam(site)
        for layer, site in {"conv2": "conv2/kernel", "relu2": "relu2"}.items()
    },
}


@pytest.mark.parametrize("name", METHODS)
def test_attribution_agrees_with_captum_in_every_method(golden, name):
    got = METHODS[name](golden)(small(golden), golden["images"], golden["targets"])
    # Captum rounds the nodes and weights of its quadrature to float32, and nothing else.
    tolerance = 1e-7 if name.startswith("integrated") else 1e-13
    scale = np.max(np.abs(golden[name]))
    assert scale > 0
    np.testing.assert_allclose(got, golden[name], atol=tolerance * scale, rtol=0)


def test_attribution_is_tested_on_the_network_of_the_script(golden):
    np.testing.assert_allclose(small(golden)(golden["images"]), golden["outputs"], atol=1e-12)


def test_noise_tunnel_agrees_with_captum_under_its_noise(golden, monkeypatch):
    noisy = golden["noisy"]
    monkeypatch.setattr(attribution, "_noisy", lambda images, spread, key, sample: jnp.asarray(noisy[sample]))
    tunnel = attribution.noise_tunnel(INTEGRATED(), samples=len(noisy), std=1.0, key=KEY)
    got = tunnel(small(golden), golden["images"], golden["targets"])
    np.testing.assert_allclose(got, golden["tunnel"], atol=1e-7 * np.max(np.abs(golden["tunnel"])), rtol=0)


@pytest.mark.parametrize("name", FEW)
def test_attribution_in_float32_is_near_and_stays_float32(golden, name):
    images = golden["images"].astype(np.float32)
    got = METHODS[name](golden)(small(golden, np.float32), images, golden["targets"])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, golden[name], atol=1e-5 * np.max(np.abs(golden[name])), rtol=0)


@pytest.mark.parametrize("name", FEW)
def test_attribution_without_targets_explains_the_networks_own_decision(golden, name):
    network, images, method = small(golden), golden["images"], METHODS[name](golden)
    own = np.argmax(golden["outputs"], axis=1)
    assert np.any(own != golden["targets"])
    np.testing.assert_array_equal(method(network, images), method(network, images, own))


@pytest.mark.parametrize("name", FEW)
def test_attribution_of_an_image_is_independent_of_others_in_its_batch(golden, name):
    network, images, method = small(golden), golden["images"], METHODS[name](golden)
    whole = method(network, images, golden["targets"])
    single = method(network, images[1:2], golden["targets"][1:2])
    np.testing.assert_allclose(single, whole[1:2], atol=1e-13)


# ------------------------------------------------------------------------------------------------- gradient methods


def test_integrated_gradients_a1_of_a_polynomial_are_exact():
    def apply(params, state, images):
        x = flattened(images)
        return (x[:, 0] * x[:, 1] + x[:, 2] ** 3)[:, None]

    x = draw(4, 1, 3, 1) - 0.5
    got = attribution.integrated_gradients(steps=2)(jp.Network(apply, {}), x).reshape(4, 3)
    first, second, third = x.reshape(4, 3).T
    expected = np.stack([first * second / 2, first * second / 2, third**3], axis=1)
    np.testing.assert_allclose(got, expected, atol=1e-15)


def test_integrated_gradients_a1_add_up_to_the_change_of_the_logit():
    def apply(params, state, images):
        return jnp.tanh(flattened(images) @ params["w"]) @ params["v"]

    params = {"w": draw(12, 5, seed=1) - 0.5, "v": draw(5, 3, seed=2) - 0.5}
    network, x, base = jp.Network(apply, params), draw(6, 2, 2, 3), draw(2, 2, 3, seed=3)
    targets = np.arange(6) % 3
    got = attribution.integrated_gradients(steps=40, baseline=base)(network, x, targets)
    rise = network(x) - network(np.broadcast_to(base, x.shape))
    np.testing.assert_allclose(np.sum(got, axis=(1, 2, 3)), rise[np.arange(6), targets], atol=1e-14)


def test_integrated_gradients_keep_the_class_that_the_image_itself_has():
    # At the baseline the second class is ahead; the gradient of the first is wanted all the way.
    network = jp.Network(lambda p, s, x: jnp.stack([flattened(x)[:, 0], 0.5 - flattened(x)[:, 0]], axis=1), {})
    got = attribution.integrated_gradients(steps=8)(network, np.ones((1, 1, 1, 1)))
    np.testing.assert_allclose(got, 1.0)


def test_noise_tunnel_a2_of_a_linear_network_has_the_mean_and_the_spread_of_theory():
    n, samples, std = 4000, 3, 0.5
    w, x = np.array([2.0, -0.7]), np.array([0.3, 0.9])
    tunnel = attribution.noise_tunnel(INTEGRATED(), samples=samples, std=std, key=KEY)
    got = np.asarray(tunnel(linear(w[:, None]), np.tile(x, (n, 1, 1, 1)))).reshape(n, 2)
    sd = np.abs(w) * std / np.sqrt(samples)
    np.testing.assert_array_less(np.abs(got.mean(axis=0) - w * x), 4 * sd / np.sqrt(n))
    np.testing.assert_array_less(np.abs(got.std(axis=0) / sd - 1), 4 / np.sqrt(2 * n))
    assert abs(np.corrcoef(got.T)[0, 1]) < 4 / np.sqrt(n)


def test_noise_tunnel_has_noise_by_key_and_position_only():
    network = linear(np.ones((12, 1)))
    x = draw(5, 2, 2, 3)

    def noisy(images, key=KEY):
        method = attribution.noise_tunnel(
            attribution.input_times_gradient(), samples=2, std=np.array([0.5, 0.0, 0.1]), key=key
        )
        return np.asarray(method(network, images))

    noise = noisy(x) - x
    np.testing.assert_allclose(noisy(x[:2]) - x[:2], noise[:2], atol=1e-15)
    np.testing.assert_allclose(noisy(x[::-1]) - x[::-1], noise, atol=1e-15)
    assert np.all(noise[..., 1] == 0)
    assert np.all(noise[0, ..., 0] != noise[1, ..., 0])
    assert np.all((noisy(x, jax.random.key(1)) - x)[..., 0] != noise[..., 0])


def test_smooth_grad_explains_one_class_whatever_the_noise():
    weights = np.array([[1.0, -2.0], [0.5, 3.0]])
    x = np.array([[0.6, 0.1], [0.1, 0.6]]).reshape(2, 1, 2, 1)
    options = {"samples": 5, "std": 9.0, "key": KEY}
    network = linear(weights)
    noisy = attribution.noise_tunnel(lambda network, images, targets: images, **options)(network, x)
    assert np.argmax(network(noisy), axis=1).tolist() != [0, 1]
    got = attribution.smooth_grad(**options)(network, x)
    np.testing.assert_allclose(got.reshape(2, 2), weights.T, atol=1e-15)


def test_smooth_grad_of_a_square_is_the_mean_gradient():
    network = jp.Network(lambda p, s, x: jnp.sum(x**2, axis=(1, 2, 3))[:, None], {})
    x, options = draw(2, 3, 3, 1), {"samples": 4, "std": 0.2, "key": KEY}
    noisy = attribution.noise_tunnel(lambda network, images, targets: images, **options)(network, x)
    np.testing.assert_allclose(attribution.smooth_grad(**options)(network, x), 2 * noisy, atol=1e-14)


def test_guided_backpropagation_a4_of_one_hidden_layer():
    first, second, x = draw(12, 9, seed=1) - 0.5, draw(9, 2, seed=2) - 0.5, draw(5, 2, 2, 3)

    def apply(params, state, images):
        return jax.nn.relu(flattened(images) @ params[0]) @ params[1]

    targets = np.array([0, 1, 0, 1, 1])
    active = x.reshape(5, 12) @ first > 0
    expected = (np.maximum(second[:, targets].T, 0) * active) @ first.T
    got = attribution.guided_backpropagation()(jp.Network(apply, [first, second]), x, targets)
    np.testing.assert_allclose(got.reshape(5, 12), expected, atol=1e-14)


# ------------------------------------------------------------------------------------------------------- Grad-CAM


def test_grad_cam_a3_of_convolution_mean_and_head_is_the_class_activation_map():
    kernel, head, x = draw(1, 1, 3, 4, seed=1) - 0.5, draw(4, 2, seed=2) - 0.5, draw(3, 4, 6, 3)

    def apply(params, state, images):
        return jnp.mean(convolve(images, params["kernel"]), axis=(1, 2)) @ params["head"]

    targets = np.array([1, 0, 1])
    maps = np.einsum("bhwi,io->bhwo", x, kernel[0, 0])
    expected = np.maximum(np.einsum("bhwo,ob->bhw", maps, head[:, targets]), 0) / 24
    assert np.any(expected > 0)
    assert np.any(expected == 0)
    got = attribution.grad_cam("kernel")(jp.Network(apply, {"kernel": kernel, "head": head}), x, targets)
    np.testing.assert_allclose(got[..., 0], expected, atol=1e-15)


def vision_transformer(depth=2):
    module = jp.models.vit("ti", patch=4, image=16, classes=3, width=8, heads=2, depth=depth)
    shapes = jax.eval_shape(module.init, KEY, jnp.ones((1, 16, 16, 3)))["params"]
    params = jax.tree.map(lambda leaf: draw(*leaf.shape, seed=leaf.size) - 0.4, shapes)
    return jp.Network.from_linen(module, {"params": params})


def test_grad_cam_a5_after_the_last_block_says_where_to_look_instead():
    network, x = vision_transformer(), draw(2, 16, 16, 3)
    with pytest.raises(ValueError, match=r"'block1'.* exactly zero .* class token .* earlier place .* is 'block0'\."):
        attribution.grad_cam("block1")(network, x)
    got = attribution.grad_cam("block0")(network, x)
    assert got.shape == (2, 16, 16, 1)
    assert np.all(np.max(got, axis=(1, 2, 3)) > 0)


def test_grad_cam_a5_of_a_place_that_nothing_reads_gives_zeros_where_asked_for():
    network, x = vision_transformer(), draw(2, 16, 16, 3)
    got = attribution.grad_cam("block1", dead="zeros")(network, x)
    assert got.shape == (2, 16, 16, 1)
    assert not np.any(got)
    assert np.all(relevance.flat(relevance.pooled(got, "minmax")))
    alive = attribution.grad_cam("block0", dead="zeros")(network, x)
    np.testing.assert_array_equal(alive, attribution.grad_cam("block0")(network, x))


def test_guided_grad_cam_of_a_pruned_network_gives_zeros_where_that_is_asked_for(golden):
    network = small(golden)
    head = network.params["conv3"]
    # What leads through relu2 is gone; the images still matter, by the way around it.
    pruned = jp.Network(_around, {**network.params, "conv3": {**head, "kernel": 0 * head["kernel"]}})
    images, targets = golden["images"], golden["targets"]
    with pytest.raises(ValueError, match=r"site: at 'inner' .* exactly zero .* dead='zeros'"):
        attribution.guided_grad_cam("inner")(pruned, images, targets)
    assert not np.any(attribution.guided_grad_cam("inner", dead="zeros")(pruned, images, targets))


def _around(params, state, images):
    x = jax.nn.relu(convolve(images, params["conv1"]["kernel"]))
    x = jax.nn.relu(convolve(x, params["conv2"]["kernel"], 2, "VALID"))
    x = x + convolve(checkpoint_name(jnp.tanh(x), "inner"), params["conv3"]["kernel"])
    return jnp.mean(x, axis=(1, 2)) @ params["head"]["kernel"]


def test_grad_cam_of_tokens_drops_the_class_token_and_reads_row_by_row():
    head = draw(5, 2, seed=1) - 0.5
    tokens = jnp.asarray(draw(2, 9, 5, seed=2) - 0.5)

    def apply(params, state, images):
        moved = tokens + 0 * images.sum()
        return jnp.tanh(checkpoint_name(moved, "tokens")).mean(axis=1) @ head + images.sum() * 0.1

    # Images of 2 x 4 pixels: 8 patches and a class token.
    got = attribution.grad_cam("tokens")(jp.Network(apply, {}), draw(2, 2, 4, 1), np.array([0, 1]))
    slopes = (1 - np.tanh(tokens) ** 2) / 9 * head.T[[0, 1]][:, None]
    weights = np.mean(slopes[:, 1:], axis=1)
    expected = np.maximum(np.einsum("btd,bd->bt", tokens[:, 1:], weights), 0).reshape(2, 2, 4)
    np.testing.assert_allclose(got[..., 0], expected, atol=1e-15)


def test_grad_cam_of_a_dead_network_is_a_map_of_zeros_that_is_flagged(golden):
    network = small(golden)
    dead = network.replace(params={**network.params, "conv2": {"kernel": 0 * network.params["conv2"]["kernel"]}})
    dead.params["conv3"]["bias"] = dead.params["conv3"]["bias"] - 10
    got = attribution.grad_cam("relu2")(dead, golden["images"])
    assert np.all(relevance.flat(relevance.pooled(got, "minmax")))
    assert not np.any(got)


def test_guided_grad_cam_works_under_jit(golden):
    method = attribution.guided_grad_cam("relu2")
    traced = jax.jit(method)(small(golden), golden["images"], golden["targets"])
    np.testing.assert_allclose(traced, golden["guided_grad_cam:relu2"], atol=1e-14)


def test_attribution_shares_compiled_programs_among_equal_networks(golden):
    network, images = small(golden), golden["images"]
    pruned = network.replace(params=jax.tree.map(lambda leaf: leaf * (leaf > 0), network.params))
    programs = [grad_cam._cam, _requests.image_gradient, _requests.decided, attribution._between, attribution._noisy]

    def sizes(network, images):
        for method in (attribution.guided_grad_cam("relu3"), attribution.noise_tunnel(INTEGRATED(), **NOISE)):
            method(network, images)
        return [program._cache_size() for program in programs]

    assert sizes(network, images) == sizes(pruned, images + 0.25)


# ------------------------------------------------------------------------------------------------------ attention


def test_attention_rollout_and_last_attention_agree_with_numpy():
    network, x = vision_transformer(depth=3), draw(2, 16, 16, 3)
    names = [f"block{number}/attention" for number in range(3)]
    blocks = [np.asarray(value).mean(axis=1) for value in jp.sites.read_jit(network, x, tuple(names))]
    product = np.eye(17)
    for block in blocks:
        product = (0.5 * block + 0.5 * np.eye(17)) @ product
    for method, rows in [(attribution.attention_rollout(), product), (attribution.last_attention(), blocks[-1])]:
        coarse = rows[:, 0, 1:].reshape(2, 4, 4)
        got = method(network, x)
        assert got.shape == (2, 16, 16, 1)
        np.testing.assert_allclose(got[..., 0], enlarged(coarse, (16, 16)), atol=1e-14)
    np.testing.assert_array_equal(
        attribution.last_attention(names[2])(network, x), attribution.last_attention()(network, x)
    )
    first = enlarged(blocks[0][:, 0, 1:].reshape(2, 4, 4), (16, 16))
    np.testing.assert_allclose(attribution.last_attention(names[0])(network, x)[..., 0], first, atol=1e-14)


def enlarged(maps, size):
    """Linear interpolation between the centres of pixels, the border repeated; one axis after the other."""
    for axis, new in enumerate(size, 1):
        old = maps.shape[axis]
        places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(places).astype(int)
        high, share = np.minimum(low + 1, old - 1), places - low
        share = share.reshape([-1 if i == axis else 1 for i in range(3)])
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps


def attending(patch, heads=2):
    """A network whose class token looks at bright patches, [1 + patches] tokens of one feature."""

    def apply(params, state, images):
        b, h, w, _ = images.shape
        means = images.reshape(b, h // patch, patch, w // patch, patch, -1).mean(axis=(2, 4, 5)).reshape(b, -1)
        tokens = jnp.concatenate([jnp.zeros((b, 1)), means], axis=1)
        logits = jnp.broadcast_to(20 * tokens[:, None, None, :], (b, heads, tokens.shape[1], tokens.shape[1]))
        attention = checkpoint_name(jax.nn.softmax(logits), "block0/attention")
        return jnp.einsum("bhqk,bk->bq", attention, tokens)[:, :2]

    return jp.Network(apply, {})


# ------------------------------------------------------------------------------------------ where the object is


def detecting(height, width, box):
    """A network whose first logit reads one box of the images."""
    y0, x0, y1, x1 = box
    window = np.zeros((height, width, 1))
    window[y0:y1, x0:x1] = 1

    def apply(params, state, images):
        seen = checkpoint_name(jax.nn.relu(convolve(images, params["kernel"]) * window), "seen")
        return jnp.concatenate([jnp.mean(seen, axis=(1, 2)), jnp.zeros((len(images), 1))], axis=1)

    return jp.Network(apply, {"kernel": jnp.ones((1, 1, 3, 1))})


EVERY = {
    "gradient": attribution.gradient(),
    "input times gradient": attribution.input_times_gradient(),
    "guided": attribution.guided_backpropagation(),
    "integrated": INTEGRATED(),
    "tunnel": attribution.noise_tunnel(INTEGRATED(), **NOISE),
    "smooth": attribution.smooth_grad(**NOISE),
    "Grad-CAM": attribution.grad_cam("seen"),
    "guided Grad-CAM": attribution.guided_grad_cam("seen"),
    "attention": attribution.last_attention(),
    "rollout": attribution.attention_rollout(),
}


@pytest.mark.parametrize("name", EVERY)
def test_attribution_a6_m6_points_into_the_patch_that_the_logit_reads(name):
    # Neither square nor on the diagonal: a transposed map would lie elsewhere.
    box, size = (4, 60, 12, 80), (64, 96)
    images, masks = 0.2 * draw(2, *size, 3), np.zeros((2, *size), bool)
    images[:, 4:12, 60:80] += 0.7
    masks[:, 4:12, 60:80] = True
    network = attending(4) if name in ("attention", "rollout") else detecting(*size, box)
    maps = EVERY[name](network, images, np.array([0, 0]))
    assert maps.shape in [(2, *size, 3), (2, *size, 1)]
    pooled = relevance.pooled(maps, "minmax" if maps.shape[-1] == 1 else "squared")
    np.testing.assert_array_equal(relevance.pointing(pooled, masks), 1.0)
    assert np.all(relevance.mass(pooled, masks) > 0.5)
    turned = np.swapaxes(pooled, 1, 2).reshape(pooled.shape)
    assert np.all(relevance.mass(turned, masks) < 0.3)


def test_mass_and_rank_m8_take_padding_as_no_object():
    images, masks = np.zeros((1, 8, 12, 3)), np.zeros((1, 8, 12), bool)
    images[:, 1:3, 7:10], masks[:, 1:3, 7:10] = 0.9, True
    padded = np.pad(images, ((0, 0), (0, 8), (0, 4), (0, 0)))
    maps = attribution.input_times_gradient()(detecting(16, 16, (0, 0, 16, 16)), padded)
    pooled = relevance.pooled(maps, "squared")
    with pytest.raises(ValueError, match=r"masks: expected bool \[b, h, w\] = \(1, 16, 16\).* pad them with False"):
        relevance.mass(pooled, masks)
    masks = np.pad(masks, ((0, 0), (0, 8), (0, 4)))
    assert relevance.mass(pooled, masks) == relevance.rank(pooled, masks) == 1
    assert relevance.chance(masks) == 6 / 256


# --------------------------------------------------------------------------------------------------------- errors


def raised(match, method, network=None, images=None, targets=None, error=ValueError):
    network = detecting(4, 4, (0, 0, 2, 2)) if network is None else network
    images = draw(2, 4, 4, 3) if images is None else images
    with pytest.raises(error, match=match):
        method(network, images, targets)


def test_attribution_names_bad_input():
    raised(r"images: expected \[b, h, w, c\].* images\[None\]", attribution.gradient(), images=draw(4, 4, 3))
    raised("images: expected floating", attribution.gradient(), images=np.ones((1, 4, 4, 3), np.uint8), error=TypeError)
    raised("images: expected finite", attribution.gradient(), images=np.full((1, 4, 4, 3), np.nan))
    raised(r"targets: expected one class for each of 2", attribution.gradient(), targets=np.array([0]))
    raised(r"targets: expected labels in \[0, 2\)", attribution.gradient(), targets=np.array([0, 2]))
    raised("targets: expected integer", attribution.gradient(), targets=np.array([0.0, 1.0]), error=TypeError)
    raised(r"baseline: expected a number, a colour", attribution.integrated_gradients(baseline=np.ones(2)))
    with pytest.raises(ValueError, match="steps: expected a whole number"):
        attribution.integrated_gradients(steps=0)
    with pytest.raises(ValueError, match="samples: expected a whole number"):
        attribution.smooth_grad(samples=0, std=1.0, key=KEY)
    with pytest.raises(ValueError, match="std: expected 0 or more"):
        attribution.smooth_grad(samples=2, std=-1.0, key=KEY)


@pytest.mark.usefixtures("unchecked")
def test_attribution_names_options_of_another_kind():
    raised("baseline: expected a number, .* but got 'black'", INTEGRATED(baseline="black"), error=TypeError)
    for method in (attribution.grad_cam, attribution.guided_grad_cam):
        with pytest.raises(TypeError, match=r"site: expected the name of one place, .* but got None"):
            method(None)
        with pytest.raises(TypeError, match=r"site: expected the name of one place, .* but got \['seen'\]"):
            method(["seen"])
        with pytest.raises(TypeError, match=r"site: .* Configure first, then apply: grad_cam\(site\)"):
            method(detecting(4, 4, (0, 0, 2, 2)))
        with pytest.raises(ValueError, match=r"dead: unknown value 'zero'\. Did you mean 'zeros'"):
            method("seen", dead="zero")
    with pytest.raises(ValueError, match=r"std: expected 0 or more, .* but got 'a'"):
        attribution.noise_tunnel(attribution.gradient(), samples=2, std="a", key=KEY)
    with pytest.raises(TypeError, match=r"key: expected one JAX PRNG key, .* but got 0"):
        attribution.smooth_grad(samples=2, std=0.1, key=0)


def test_grad_cam_names_sites_that_do_not_serve():
    raised(
        r"site: the network has no place 'sean'\. Did you mean 'seen'\? It tags: seen\. Its kernels: kernel\.",
        attribution.grad_cam("sean"),
    )
    network, x = vision_transformer(), draw(2, 16, 16, 3)
    raised(r"site: 'features' is \(2, 8\), but Grad-CAM expects a map", attribution.grad_cam("features"), network, x)


@pytest.mark.parametrize("site", ["block0/keys", "block0/heads", "block0/attention", "stage1/block0/attention"])
def test_grad_cam_refuses_what_is_sorted_by_heads_whatever_its_shape(site):
    for method in (attribution.grad_cam, attribution.guided_grad_cam):
        with pytest.raises(ValueError, match=f"site: '{site}' holds the probabilities .* a map .* or tokens"):
            method(site)


def test_grad_cam_never_offers_an_earlier_place_that_is_sorted_by_heads():
    # Four tokens with four heads pass for a map of 4 x 4 places, of 4 x 2 pixels each.
    def apply(params, state, images):
        value = checkpoint_name(images.reshape(2, 4, 4, 4, 2, 1).mean(axis=(2, 4)), "block0")
        keys = checkpoint_name(jnp.broadcast_to(value, (2, 4, 4, 3)), "block1/keys")
        unread = checkpoint_name(0 * keys, "block1")
        return images.mean(axis=(1, 2)) + keys.mean(axis=(1, 2)) + 0 * unread.mean(axis=(1, 2))

    raised(r"earlier place .* is 'block0'\.", attribution.grad_cam("block1"), jp.Network(apply, {}), draw(2, 16, 8, 1))


def test_attribution_names_methods_for_other_networks():
    network, x = vision_transformer(), draw(2, 16, 16, 3)
    raised("network: guided methods change the gradient of ReLUs", attribution.guided_backpropagation(), network, x)
    for method in (attribution.attention_rollout(), attribution.last_attention()):
        raised(r"network: expected a vision transformer .* it tags: seen\.", method)
    raised("site: unknown value 'block2/attention'", attribution.last_attention("block2/attention"), network, x)

    def windowed(params, state, images):
        windows = images.reshape(len(images) * 4, 4, 3)
        attention = checkpoint_name(jnp.ones((len(windows), 2, 4, 4)) / 4, "stage1/block0/attention")
        return jnp.einsum("bhqk,bkd->bqd", attention, windows).reshape(len(images), -1)[:, :2]

    raised(
        r"'stage1/block0/attention' is \(8, 2, 4, 4\).* Attention inside windows",
        attribution.attention_rollout(),
        jp.Network(windowed, {}),
    )


HALF = {
    "gradient": attribution.gradient(),
    "smooth_grad": attribution.smooth_grad(samples=3, std=0.1, key=KEY),
    "integrated_gradients": attribution.integrated_gradients(steps=4),
}


@pytest.mark.parametrize("method", HALF)
def test_attribution_of_images_in_half_precision_is_that_of_the_same_numbers_in_float32(method):
    network = jp.Network(lambda p, s, x: jnp.tanh(x.reshape(len(x), -1) @ p), jnp.asarray(draw(12, 3)))
    half = jnp.asarray(draw(2, 2, 2, 3), jnp.bfloat16)
    found, expected = (HALF[method](network, images) for images in (half, half.astype(jnp.float32)))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)
