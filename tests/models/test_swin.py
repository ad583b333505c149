"""Swin-V2: against its definition as loops in NumPy, against torchvision's answers, and what must not matter."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import jaxprune as jp
from jaxprune import tree
from jaxprune.models import swin_v2
from jaxprune.models.swin_blocks import Attention, Merge, offsets, unit_vectors

GOLDEN = Path(__file__).parent / "golden/swin_v2.npz"
TINY = {"patch": 2, "window": 4, "depths": (2, 2), "classes": 3, "width": 8, "heads": (2, 4)}


def shapes(module, image):
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image), jnp.float32))


def randomised(module, image):
    """Variables in float64, none at its initial value; scales of the attention on both sides of their bound."""
    rng = np.random.default_rng(0)

    def draw(name, leaf):
        if name.endswith("logit_scale"):
            return np.linspace(1.0, 5.0, leaf.size)
        return rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1])))

    return tree.map_named(draw, shapes(module, image))


def images(*shape):
    return np.random.default_rng(1).normal(size=shape)


def dense(layer, x):
    return x @ layer["kernel"] + layer.get("bias", 0.0)


def norm(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-5) * layer["scale"] + layer["bias"]


def position_bias(layer, window, down, right):
    """The bias of a pair, for every head: of the row and column of the query less those of the key."""
    entered = [np.sign(apart) * np.log2(abs(8 * apart / (window - 1)) + 1) / np.log2(8) for apart in (down, right)]
    hidden = np.maximum(dense(layer["hidden"], np.array(entered)), 0)
    return 16 / (1 + np.exp(-dense(layer["output"], hidden)))


def attention(layer, x, heads, window, shift):
    """Window by window, token by token, head by head."""
    height, width, features = x.shape
    rows, columns = (-(-size // window) * window for size in (height, width))
    grid = np.zeros((rows, columns, features))
    grid[:height, :width] = x
    down, right = (shift if size > window else 0 for size in (rows, columns))
    mixed = np.zeros((rows, columns, layer["query"]["kernel"].shape[1]))
    dim = mixed.shape[-1] // heads
    local = list(np.ndindex(window, window))
    bias = np.array([[position_bias(layer["position"], window, *np.subtract(a, b)) for b in local] for a in local])
    for top, left in np.ndindex(rows // window, columns // window):
        inside = [((top * window + i + down) % rows, (left * window + j + right) % columns) for i, j in local]
        tokens = np.stack([grid[place] for place in inside])
        q, k, v = (dense(layer[name], tokens) for name in ("query", "key", "value"))
        # What lies further apart on the map than a window was brought together by the shift.
        apart = [[max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= window for b in inside] for a in inside]
        for head in range(heads):
            mine = slice(head * dim, (head + 1) * dim)
            lengths = [np.maximum(np.linalg.norm(vectors[:, mine], axis=1), 1e-12) for vectors in (q, k)]
            cosine = q[:, mine] @ k[:, mine].T / np.outer(*lengths)
            scale = min(np.exp(layer["logit_scale"][head]), 100.0)
            weights = np.exp(scale * cosine + bias[:, :, head] - 100.0 * np.array(apart))
            for place, value in zip(inside, weights / weights.sum(1, keepdims=True) @ v[:, mine], strict=True):
                mixed[place][mine] = value
    return dense(layer["output"], mixed[:height, :width])


def merged(layer, x):
    """Two by two tokens become one: above, below, then to the right of these."""
    height, width, features = x.shape
    grid = np.zeros((height + height % 2, width + width % 2, features))
    grid[:height, :width] = x
    four = [grid[0::2, 0::2], grid[1::2, 0::2], grid[0::2, 1::2], grid[1::2, 1::2]]
    return norm(layer["norm"], dense(layer["reduction"], np.concatenate(four, -1)))


def oracle(params, batch, patch, window, depths, heads):
    """Swin-V2 in NumPy, image by image."""

    def mlp(layer, x):
        hidden = dense(layer["hidden"], x)
        return dense(layer["output"], hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))))

    def forward(image):
        kernel = params["embed"]["kernel"].reshape(-1, params["embed"]["kernel"].shape[-1])
        rows, columns = (size // patch for size in image.shape[:2])
        x = np.zeros((rows, columns, kernel.shape[1]))
        for i, j in np.ndindex(rows, columns):
            x[i, j] = image[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].ravel() @ kernel
        x = norm(params["embed_norm"], x + params["embed"]["bias"])
        for stage, depth in enumerate(depths):
            x = merged(params[f"merge{stage}"], x) if stage else x
            for number in range(depth):
                block, shift = params[f"stage{stage + 1}_block{number}"], window // 2 if number % 2 else 0
                x = x + norm(block["norm1"], attention(block["attention"], x, heads[stage], window, shift))
                x = x + norm(block["norm2"], mlp(block["mlp"], x))
        return dense(params["head"], norm(params["norm"], x).mean((0, 1)))

    return np.stack([forward(image) for image in batch])


MAPS = {
    "whole windows": ((4, 6), 2, 1),
    "not moved": ((4, 6), 2, 0),
    "padded": ((5, 7), 3, 1),
    "padded and not moved": ((5, 7), 3, 0),
    "padded by more than the shift": ((5, 9), 4, 2),
    "one window high": ((3, 7), 3, 1),
    "one window wide": ((10, 4), 4, 2),
    "smaller than a window": ((2, 3), 4, 2),
    "one token": ((1, 1), 2, 1),
}


@pytest.mark.parametrize("name", MAPS)
def test_attention_equals_its_definition(name):
    size, window, shift = MAPS[name]
    module, x = Attention(2, 3, window, shift, "block"), images(2, *size, 5)
    params = randomised(module, x.shape[1:])["params"]
    expected = [attention(params, image, 2, window, shift) for image in x]
    np.testing.assert_allclose(jax.jit(module.apply)({"params": params}, x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "changed"),
    [((16, 16), {}), ((11, 19), {"window": 3, "patch": 1, "depths": (1, 2, 1), "heads": (1, 2, 2)})],
)
def test_swin_v2_equals_its_definition(size, changed):
    options = TINY | changed
    module, batch = swin_v2(**options), images(2, *size, 3)
    params = randomised(module, batch.shape[1:])["params"]
    expected = oracle(params, batch, *(options[name] for name in ("patch", "window", "depths", "heads")))
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(jax.jit(module.apply)({"params": params}, batch), expected, rtol=1e-10)


def from_torchvision(weights):
    """Torchvision's weights under our names: its linear layers are [out, in], its query, key and value are one."""
    found = {}

    def put(name, layer):
        found[f"{name}/kernel"] = weights[f"{layer}.weight"].T
        if f"{layer}.bias" in weights:
            found[f"{name}/bias"] = weights[f"{layer}.bias"]

    def put_norm(name, layer):
        found[f"{name}/scale"], found[f"{name}/bias"] = weights[f"{layer}.weight"], weights[f"{layer}.bias"]

    found |= {"embed/kernel": weights["features.0.0.weight"].transpose(2, 3, 1, 0)}
    found |= {"embed/bias": weights["features.0.0.bias"]}
    put_norm("embed_norm", "features.0.2")
    for stage, number in np.ndindex(2, 2):
        ours, theirs = f"stage{stage + 1}_block{number}", f"features.{1 + 2 * stage}.{number}"
        for place, name in enumerate(("query", "key", "value")):
            kernel, bias = (np.split(weights[f"{theirs}.attn.qkv.{leaf}"], 3)[place] for leaf in ("weight", "bias"))
            found[f"{ours}/attention/{name}/kernel"] = kernel.T
            found |= {f"{ours}/attention/{name}/bias": bias} if name != "key" else {}
        put(f"{ours}/attention/output", f"{theirs}.attn.proj")
        put(f"{ours}/attention/position/hidden", f"{theirs}.attn.cpb_mlp.0")
        put(f"{ours}/attention/position/output", f"{theirs}.attn.cpb_mlp.2")
        found[f"{ours}/attention/logit_scale"] = weights[f"{theirs}.attn.logit_scale"].ravel()
        put(f"{ours}/mlp/hidden", f"{theirs}.mlp.0")
        put(f"{ours}/mlp/output", f"{theirs}.mlp.3")
        put_norm(f"{ours}/norm1", f"{theirs}.norm1")
        put_norm(f"{ours}/norm2", f"{theirs}.norm2")
    put("merge1/reduction", "features.2.reduction")
    put_norm("merge1/norm", "features.2.norm")
    put_norm("norm", "norm")
    put("head", "head")
    return found


@pytest.mark.parametrize("case", ["16x16", "20x28", "8x24", "23x19"])
def test_swin_v2_outputs_are_those_of_torchvision(case):
    with np.load(GOLDEN) as file:
        stored = dict(file)
    weights = {
        name.removeprefix("weights/"): stored[name].astype(np.float64) for name in stored if name.startswith("weights/")
    }
    # The bias that torchvision keeps for its keys is not zero here; it must not matter.
    assert np.all(weights["features.1.0.attn.qkv.bias"][8:16] != 0)
    module, batch, found = swin_v2(**TINY), stored[f"images/{case}"].astype(np.float64), from_torchvision(weights)
    template = shapes(module, batch.shape[1:])["params"]
    assert {name: leaf.shape for name, leaf in found.items()} == {
        name: leaf.shape for name, leaf in tree.by_name(template).items()
    }
    network = module.network(tree.map_named(lambda name, leaf: found[name], template), {})
    last, features = jp.sites.read_jit(network, batch, sites=("map", "features"))
    # Torchvision keeps its offsets in float32.
    np.testing.assert_allclose(last, stored[f"map/{case}"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        features @ found["head/kernel"] + found["head/bias"], stored[f"outputs/{case}"], rtol=1e-6
    )


@pytest.mark.parametrize(("size", "count"), [("t", 28_351_570), ("s", 49_737_442), ("b", 87_930_848)])
def test_swin_v2_has_the_parameters_of_torchvision_without_its_biases_of_keys(size, count):
    module = swin_v2(size)
    keys = sum(depth * module.width * 2**stage for stage, depth in enumerate(module.depths))
    params = shapes(module, (256, 256, 3))["params"]
    assert tree.size(params) == count - keys
    assert not [name for name in tree.names(params) if name.endswith("key/bias")]
    assert sum(name.endswith("key/kernel") for name in tree.names(params)) == sum(module.depths)
    kernels = [leaf.ndim for name, leaf in tree.by_name(params).items() if name.endswith("/kernel")]
    assert sorted(set(kernels)) == [2, 4]
    assert kernels.count(4) == 1


def test_swin_v2_without_classes_answers_its_features():
    module, batch = swin_v2(**TINY | {"classes": 0}), images(2, 16, 16, 3)
    params = randomised(module, batch.shape[1:])["params"]
    assert "head" not in params
    network = module.network(params, {})
    (features,) = jp.sites.read_jit(network, batch, sites=("features",))
    np.testing.assert_allclose(jax.jit(network.apply)(params, {}, batch), features, rtol=1e-12)
    assert jp.models.specification(module.describe()) == module


def test_swin_v2_tags_every_value_by_its_place():
    module, batch = swin_v2(**TINY), jax.ShapeDtypeStruct((2, 20, 28, 3), np.float32)
    network = module.network(shapes(module, (20, 28, 3))["params"], {})
    sites = jp.sites.tags(network, batch)
    values = jax.eval_shape(lambda network, batch: jp.sites.read(network, batch, sites), network, batch)
    expected = {}
    for stage, (size, windows, width, heads) in enumerate([((10, 14), 12, 8, 2), ((5, 7), 4, 16, 4)], start=1):
        inside = dict.fromkeys(("", "/branch1", "/branch2"), (2, *size, width)) | {"/units": (2, *size, 4 * width)}
        inside |= dict.fromkeys(("/keys", "/heads"), (2, *size, heads, 4))
        inside |= {"/attention": (2, windows, heads, 16, 16)}
        expected |= {f"stage{stage}/block{n}{name}": shape for n in range(2) for name, shape in inside.items()}
    expected |= {"map": (2, 5, 7, 16), "features": (2, 16)}
    assert dict(zip(sites, (value.shape for value in values), strict=True)) == expected


def test_attention_probabilities_of_every_query_sum_to_one():
    module, batch = swin_v2(**TINY), images(2, 20, 28, 3)
    network = module.network(randomised(module, batch.shape[1:])["params"], {})
    sites = tuple(f"stage{stage}/block{number}/attention" for stage in (1, 2) for number in (0, 1))
    for attended in jp.sites.read_jit(network, batch, sites=sites):
        np.testing.assert_allclose(attended.sum(-1), 1.0, rtol=1e-12)


def test_attention_moves_windows_only_where_there_are_several():
    still, moved = (Attention(2, 3, 4, shift, "block") for shift in (0, 2))
    for size, same in (((3, 4), True), ((3, 5), False), ((8, 4), False)):
        x = images(1, *size, 5)
        variables = randomised(still, x.shape[1:])
        left, right = (jax.jit(module.apply)(variables, x) for module in (still, moved))
        assert np.array_equal(left, right) == same


def test_attention_in_still_windows_knows_nothing_of_other_windows():
    module, x = Attention(2, 3, 2, 0, "block"), images(1, 4, 6, 5)
    variables = randomised(module, x.shape[1:])
    apply = jax.jit(module.apply)
    np.testing.assert_allclose(
        apply(variables, np.roll(x, (2, 4), (1, 2))), np.roll(apply(variables, x), (2, 4), (1, 2)), rtol=1e-12
    )
    changed = x.copy()
    changed[0, 0, 2] += 1
    moved = np.any(np.asarray(apply(variables, changed) != apply(variables, x)), axis=-1)[0]
    assert np.argwhere(moved).tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_attention_in_moved_windows_does_not_reach_around_the_edge():
    # Rows 1 and 2 are a window, rows 3 and 0 would be one around the edge.
    module, x = Attention(1, 4, 2, 1, "block"), images(1, 4, 4, 4)
    variables = randomised(module, x.shape[1:])
    apply, changed = jax.jit(module.apply), x.copy()
    changed[0, 0, 1] += 1
    differs = np.abs(np.asarray(apply(variables, changed) - apply(variables, x))).max(-1)[0] > 1e-12
    assert np.argwhere(differs).tolist() == [[0, 1], [0, 2]]


@pytest.mark.parametrize("name", ["query", "key"])
def test_attention_sees_only_the_direction_of_queries_and_keys(name):
    module, x = Attention(2, 3, 2, 1, "block"), images(1, 4, 4, 5)
    params = randomised(module, x.shape[1:])["params"]
    longer = params | {name: jax.tree.map(lambda leaf: 3 * leaf, params[name])}
    apply = jax.jit(module.apply)
    np.testing.assert_allclose(apply({"params": longer}, x), apply({"params": params}, x), rtol=1e-10)
    shorter = params | {name: jax.tree.map(lambda leaf: -leaf, params[name])}
    assert np.max(np.abs(apply({"params": shorter}, x) - apply({"params": params}, x))) > 1e-2


def test_attention_takes_a_scale_above_100_as_100():
    module, x = Attention(2, 3, 2, 1, "block"), images(1, 4, 4, 5)
    params = randomised(module, x.shape[1:])["params"]
    apply = jax.jit(module.apply)
    outputs = [apply({"params": params | {"logit_scale": np.log([10.0, top])}}, x) for top in (100.0, 1e4, 99.0)]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-12)
    assert np.max(np.abs(outputs[0] - outputs[2])) > 1e-6


def test_attention_starts_with_a_scale_of_ten_and_offsets_from_end_to_end():
    variables = Attention(2, 3, 4, 0, "block").init(jax.random.key(0), images(1, 4, 4, 5))
    np.testing.assert_allclose(np.exp(variables["params"]["logit_scale"]), 10.0, rtol=1e-6)
    np.testing.assert_allclose(offsets(8)[[0, 112, -1]], np.log2([[1 / 9] * 2, [1, 1], [9] * 2]) / 3, rtol=1e-15)


def test_unit_vectors_of_zero_have_no_gradient():
    np.testing.assert_array_equal(jax.jacobian(unit_vectors)(jnp.zeros(2)), np.zeros((2, 2)))
    np.testing.assert_allclose(jax.jacobian(unit_vectors)(jnp.array([0.0, 2.0])), [[0.5, 0], [0, 0]], atol=1e-15)


def test_attention_gradients_of_a_padded_map_are_finite_in_single_precision():
    with jax.enable_x64(False):
        module, x = Attention(2, 3, 4, 2, "block"), images(2, 5, 7, 5).astype(np.float32)
        params = jax.tree.map(np.float32, randomised(module, x.shape[1:])["params"])
        gradients = jax.jit(jax.grad(lambda params, x: jnp.sum(module.apply({"params": params}, x) ** 2), (0, 1)))
        for leaf in jax.tree.leaves(gradients(params, x)):
            assert 0 < np.max(np.abs(leaf)) < 1e4


def test_swin_v2_in_single_precision_stays_in_it():
    module = swin_v2(**TINY)
    batch = jax.ShapeDtypeStruct((2, 20, 28, 3), np.float32)
    assert jax.eval_shape(module.apply, shapes(module, (20, 28, 3)), batch).dtype == np.float32


def test_merge_halves_a_map_and_rounds_up():
    x = jax.ShapeDtypeStruct((2, 5, 6, 4), np.float32)
    assert jax.eval_shape(lambda x: Merge().init_with_output(jax.random.key(0), x)[0], x).shape == (2, 3, 3, 8)


def test_swin_v2_blocks_keep_their_windows_where_others_before_are_gone():
    module, batch = swin_v2(**TINY | {"depths": (2,), "heads": (2,)}), images(2, 16, 16, 3)
    params = randomised(module, batch.shape[1:])["params"]
    off = params | {"stage1_block0": jax.tree.map(np.zeros_like, params["stage1_block0"])}
    left = module.without({"stage1_block0/attention": [False], "stage1_block0/mlp": [False]})
    assert left.depths == (1,)
    params = {name: entry for name, entry in params.items() if name != "stage1_block0"}
    np.testing.assert_allclose(
        jax.jit(left.apply)({"params": params}, batch), jax.jit(module.apply)({"params": off}, batch), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "l"}, r"size: unknown value 'l'"),
        ({"layers": "block"}, r"layers: unknown value 'block'. Did you mean 'blocks'\?"),
        ({"window": 1}, r"window: expected 2 or more tokens, but got 1"),
        ({"window": 2.5}, r"window: expected a whole number of 1 or more, but got 2\.5"),
        ({"patch": 0}, r"patch: expected a whole number of 1 or more, but got 0"),
        ({"depths": (2, 0)}, r"depths\[1\]: expected a whole number of 1 or more, but got 0"),
        ({"depths": ()}, r"depths: expected the blocks of one stage or more, but got \(\)"),
        (
            {"heads": (3, 6)},
            r"heads: expected one number for each of the 4 stages of depths=.*but got \(3, 6\)",
        ),
        ({"width": 32}, r"heads: expected divisors .* stage 1 is 32 wide and has 3 heads. Take a width of 33"),
        ({"heads": (3, 5, 12, 24)}, r"heads: .* stage 2 is 192 wide and has 5 heads"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_swin_v2_refuses_bad_arguments_with_a_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        swin_v2(**options)


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 1, 3)])
def test_swin_v2_refuses_bad_images_with_a_remedy(shape):
    with pytest.raises(ValueError, match=r"images: expected \[b, h, w, c\] with h and w of 2 .* but got the shape"):
        swin_v2(**TINY).init(jax.random.key(0), jnp.ones(shape))
