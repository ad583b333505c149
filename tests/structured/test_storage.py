"""Networks on disk: back bit for bit, and every way in which a folder can be wrong is named."""

import hashlib
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxprune as jp
from jaxprune.structured import Declared, export, load, preprocess_of, remove, save
from tests.structured import networks

SHAPE, WEIGHTS = "specification.json", "weights.safetensors"


def smaller(name, seed=4):
    module = networks.build(name)[0]
    return remove(*networks.build(name), networks.random_gates(module.groups(), seed))


def saved(folder, name="resnet"):
    specification, params, state = smaller(name)
    return save(folder, specification, params, state, networks.MODULES[name][1])


@pytest.mark.parametrize("name", networks.FAMILIES)
def test_load_gives_what_was_saved(name, tmp_path):
    specification, params, state = smaller(name)
    # Float32, as networks are trained, but for one leaf.
    params, state = jax.tree.map(np.float32, (params, state))
    params["head"]["bias"] = np.float64(params["head"]["bias"])
    folder = save(tmp_path / "new" / "folder", specification, params, state, networks.MODULES[name][1])
    assert sorted(path.name for path in folder.iterdir()) == [SHAPE, WEIGHTS]
    found, network = load(folder, jp.models.specification)
    assert found == specification
    assert jax.tree.structure((network.params, network.state)) == jax.tree.structure((params, state))
    jax.tree.map(np.testing.assert_array_equal, (network.params, network.state), (params, state))
    assert jax.tree.map(lambda leaf: leaf.dtype, network.params) == jax.tree.map(lambda leaf: leaf.dtype, params)
    assert network.apply == specification.network(params, state).apply
    # Written once more, it is the same bytes.
    again = save(tmp_path / "again", found, network.params, network.state, networks.MODULES[name][1])
    assert all((again / part).read_bytes() == (folder / part).read_bytes() for part in (SHAPE, WEIGHTS))


def test_save_writes_what_anybody_can_read(tmp_path):
    values = json.loads((saved(tmp_path) / SHAPE).read_text())
    assert values["image_shape"] == [4, 4, 2]
    assert values["specification"] == smaller("resnet")[0].describe()
    arrays = safetensors.numpy.load_file(tmp_path / WEIGHTS)
    assert set(arrays) == {
        *(f"params/{name}" for name in jp.tree.names(smaller("resnet")[1])),
        *(f"state/{name}" for name in jp.tree.names(smaller("resnet")[2])),
    }


def test_preprocess_of_reads_what_was_saved_and_the_old_word_for_std(tmp_path):
    rule = jp.types.Preprocess(resize=4, crop=4, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    folder = save(tmp_path, *smaller("resnet"), networks.MODULES["resnet"][1], rule)
    assert preprocess_of(folder) == rule
    text = (folder / SHAPE).read_text()
    assert text.count('"std"') == 1
    (folder / SHAPE).write_text(text.replace('"std"', '"deviation"'))
    assert preprocess_of(folder) == rule


def test_load_takes_a_network_by_hand_with_its_function(tmp_path):
    gates = {"units": np.arange(5) < 3}
    specification, params, state = remove(networks.MLP, networks.mlp_params(), {}, gates)
    save(tmp_path, specification, params, state, (2, 2, 1))
    found, network = load(tmp_path, lambda values: Declared.described(values, networks.mlp_apply))
    assert found == specification
    images = networks.images("mlp")
    np.testing.assert_array_equal(network(images), specification.network(params, state)(images))


def edit(folder, *, forged=True, **changes):
    """Changes the JSON; forged: with a hash that fits again, so that what lies behind it is tested."""
    values = json.loads((folder / SHAPE).read_text()) | changes
    if forged:
        hashed = json.dumps({name: values[name] for name in ("image_shape", "specification")}).encode()
        values["sha256"] = hashlib.sha256(hashed + (folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / SHAPE).write_text(json.dumps(values))


def one_block_less(folder):
    """Without a block whose shortcut is the identity, another network would load as well."""
    values = json.loads((folder / SHAPE).read_text())["specification"]
    name = next(name for name in values["blocks"] if not name.endswith("block0"))
    blocks = {other: inner for other, inner in values["blocks"].items() if other != name}
    edit(folder, forged=False, specification=values | {"blocks": blocks})


def narrower(folder):
    """The shape of another width."""
    values = smaller("resnet")[0].describe()
    name, inner = next((name, inner) for name, inner in values["blocks"].items() if inner[0] > 1)
    edit(folder, specification=values | {"blocks": values["blocks"] | {name: [inner[0] - 1]}})


def other_weights(folder):
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    arrays["params/head/bias"] = arrays["params/head/bias"] + 1
    safetensors.numpy.save_file(arrays, folder / WEIGHTS)


def pickled(folder, keep_hash=False):
    (folder / WEIGHTS).write_bytes(pickle.dumps({"params": np.ones(3)}))
    if keep_hash:
        edit(folder)


def cut_short(name):
    def change(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


WRONG = {
    "width": (narrower, r"folder: .*: specification, weights and images of .* disagree: .*Take those that"),
    "images": (lambda folder: edit(folder, image_shape=[4, 4, 3]), r"folder: .* and images of \(4, 4, 3\) disagree"),
    "weights": (other_weights, r"should have the SHA-256 \w{12}\.\.\., but have \w{12}"),
    "half the weights": (cut_short(WEIGHTS), r"folder: specification and weights in .* disagree: together they should"),
    "one block less": (one_block_less, r"should have the SHA-256 \w{12}\.\.\., but have \w{12}"),
    "half the shape": (cut_short(SHAPE), r"folder: .*specification\.json' is damaged \(JSONDecodeError"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), r"has no weights\.safetensors\. Was the run that wrote"),
    "no shape": (lambda folder: (folder / SHAPE).unlink(), r"has no specification\.json\. Was the run that wrote it"),
    "no hash": (lambda folder: (folder / SHAPE).write_text('{"image_shape": [4, 4, 2]}'), r"damaged \(KeyError"),
    "a list": (lambda folder: (folder / SHAPE).write_text("[]"), r"specification\.json' is damaged \(TypeError"),
    "a pickle": (pickled, r"should have the SHA-256"),
    "a pickle with its hash": (lambda folder: pickled(folder, True), r"is no safetensors file \("),
    "family": (lambda folder: edit(folder, specification={"family": "vgg"}), r"family: unknown value 'vgg'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_load_names_what_is_wrong_with_a_folder(name, tmp_path):
    change, message = WRONG[name]
    change(saved(tmp_path))
    with pytest.raises(ValueError, match=message):
        load(tmp_path, jp.models.specification)


def test_load_refuses_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"folder: expected a saved network with specification\.json and weights"):
        load(tmp_path, jp.models.specification)


class Bomb:
    """Would run code if anything unpickled it."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_load_unpickles_nothing(tmp_path):
    saved(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="SHA-256"):
        load(tmp_path, jp.models.specification)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layers": [np.ones(2)]}, r"params/layers: expected nested dictionaries of arrays, but found a list"),
        ({"a/b": np.ones(2)}, r"params: expected names without a slash, but got 'a/b'"),
    ],
)
def test_save_refuses_trees_that_names_cannot_tell_before_it_writes(params, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save(tmp_path, networks.MLP, params, {}, (2, 2, 1))
    assert not list(tmp_path.iterdir())


def test_save_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"folder: cannot write in"):
        saved(tmp_path / "file")
    with pytest.raises(ValueError, match=r"path: cannot write in"):
        export(networks.network("resnet"), (4, 4, 2), tmp_path / "file" / "network.bin")


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_export_makes_a_network_that_takes_any_number_of_images(name, tmp_path):
    specification, params, state = smaller(name)
    network = jax.tree.map(np.float32, specification.network(params, state))
    path = export(network, networks.MODULES[name][1], tmp_path / "network.bin")
    assert [one.name for one in tmp_path.iterdir()] == ["network.bin"]
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    for count in (1, 5):
        images = networks.images(name, count).astype(np.float32)
        got = program.call(images)
        assert got.shape == (count, 3)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, networks.evaluate(network, images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16", "bool"])
def test_save_keeps_shape_and_type_of_every_leaf(dtype, tmp_path):
    def function(params, state, images):
        return images.reshape(len(images), -1)[:, :3] * params["scale"]

    params = {"scale": np.asarray(2.0), "other": np.ones((2, 0, 3)).astype(dtype), "one": np.asarray(1).astype(dtype)}
    save(tmp_path, Declared(function, ()), params, {}, (2, 2, 1))
    _, network = load(tmp_path, lambda values: Declared.described(values, function))
    for name, leaf in params.items():
        assert network.params[name].shape == leaf.shape
        assert network.params[name].dtype == leaf.dtype


def test_save_refuses_a_type_that_could_not_be_read_again(tmp_path):
    params = {"kernel": jnp.ones(2, jnp.bfloat16)}
    with pytest.raises(ValueError, match=r"params/kernel: expected numbers that NumPy has, but got bfloat16. Cast it"):
        save(tmp_path, Declared(lambda p, s, x: x, ()), params, {}, (2, 2, 1))


def test_save_names_images_that_the_network_does_not_take_before_it_writes(tmp_path):
    specification, params, state = smaller("resnet")
    with pytest.raises(ValueError, match=r"image_shape, params: .* images of \(4, 4, 7\) disagree"):
        save(tmp_path / "new", specification, params, state, (4, 4, 7))
    assert not (tmp_path / "new").exists()
