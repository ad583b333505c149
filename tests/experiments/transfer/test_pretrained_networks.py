"""The transfer study on a pretrained network, end to end: a folder like ImageNet's, a file like torchvision's."""

import dataclasses
import importlib.util
import io
import json
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import jaxprune as jp
from experiments import transfer
from experiments.shared import frozen_heads, pretrained, splits
from experiments.shared.study import run
from experiments.transfer import protocol
from jaxprune import tensor_files
from jaxprune.models import mapping
from jaxprune.store import Store

ROOT = Path(__file__).parents[3]
TASKS = ("food", "landscape")
COUNTS = {"train": 10, "val": 3}


def script(name: str) -> Any:
    where = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    assert where is not None
    assert where.loader is not None
    module = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    return module


def tensors(name: str, classes: int = 1000) -> dict[str, np.ndarray]:
    """The tensors of a file, drawn by their names."""
    known = jp.models.ARCHITECTURES[name]
    module = known.module(classes, known.image)
    images = jax.ShapeDtypeStruct((1, known.image, known.image, 3), np.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), images)
    return script("golden_weights").filled(mapping.shapes(known.layout(module), like))


@pytest.fixture(scope="module", autouse=True)
def thin():
    """A ResNet-18 whose stem has 8 filters in place of 64: all names are torchvision's, and convolutions take no time.

    Files of the published size are read in the tests of the models.
    """
    known = jp.models.ARCHITECTURES["torchvision/resnet18"]
    thinner = dataclasses.replace(known, module=lambda classes, image: jp.models.resnet(18, classes, width=8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cast(dict[str, Any], jp.models.ARCHITECTURES), known.name, thinner)
        yield


@pytest.fixture(scope="module")
def place(thin, tmp_path_factory):
    """A folder with 1000 synsets in train and in val, one tiny image in each but for those of two tasks."""
    root = tmp_path_factory.mktemp("imagenet")
    wanted = {one for task in jp.data.imagenet_tasks() if task.name in TASKS for one in task.classes}
    draw = np.random.default_rng(0)
    for part, count in COUNTS.items():
        for number in range(1000):
            folder = root / part / f"n{number:08d}"
            folder.mkdir(parents=True)
            for index in range(count if number in wanted else 1):
                pixels = draw.integers(0, 256, (3, 4, 3), dtype=np.uint8)
                pixels[..., number % 3] = 60 * (number % 4)
                Image.fromarray(pixels).resize((40 + index, 36)).save(folder / f"{index}.JPEG")
    tensor_files.write(root / "resnet18.pth", tensors("torchvision/resnet18"))
    return root


def asked(place: Path, out: Path, **options: Any) -> transfer.Settings:
    settings: dict[str, Any] = {
        "data": f"folder:{place}",
        "weights": str(place / "resnet18.pth"),
        "architecture": "torchvision/resnet18",
        "image": 32,
        "tasks": TASKS,
        "shifts": (),
        "methods": ("magnitude",),
        "sparsities": (0.5,),
        "rungs": (),
        "seeds": (0,),
        "penalties": (1.0,),
        "finetune_steps": 1,
        "finetune_rate": 1e-4,
        "batch_size": 10,
        "largest_batch": 10,
    }
    return transfer.Settings(**settings | options, out=out)


def said(settings: transfer.Settings) -> str:
    """What a dry run prints."""
    text = io.StringIO()
    run(transfer.STUDY, dataclasses.replace(settings, dry_run=True), Console(file=text, width=200))
    return text.getvalue()


def test_transfer_runs_from_a_folder_and_a_file_to_its_page(place, tmp_path):
    settings = asked(place, tmp_path)
    text = run(transfer.STUDY, settings, Console(file=io.StringIO())).read_text()
    assert "torchvision/resnet18" in text
    assert str(place) not in text
    inputs = transfer.open_study(settings)
    store = Store(tmp_path, "transfer", version=transfer.STUDY.version, data=inputs.fingerprint)
    found = [store.read(one) for one in transfer.plan(inputs.settings, inputs)]
    assert [record["config"]["score"] for record in found] == ["dense", "magnitude"]
    for record in found:
        assert record["data"] == inputs.fingerprint
        measured = record["metrics"]["pruned"]["frozen"]
        assert {name: one["n"] for name, one in measured.items()} == dict.fromkeys(TASKS, 20)
    assert found[1]["metrics"]["sparsity"] == pytest.approx(0.5, abs=1e-6)
    # Every example of the dense network is classified as by the network and the head alone.
    world_hits = found[0]["metrics"]["pruned"]["frozen"]["food"]["hits"]
    assert world_hits == by_hand(place, inputs)


def by_hand(place: Path, inputs: splits.Inputs) -> str:
    """Hits of the source task, from the file and the images with as little of the study as possible."""
    network, preprocess = jp.models.load(place / "resnet18.pth", "torchvision/resnet18", image=32)
    task = inputs.source

    def features(source: jp.data.Source, indices: np.ndarray) -> np.ndarray:
        pixels = jp.data.normalise(source.images(indices), preprocess)
        return np.asarray(jp.sites.read(network, pixels, ["features"])[0])

    train, head = inputs.indices(0, "head", task.classes)
    val, test = inputs.indices(0, "test", task.classes)
    position = {number: place for place, number in enumerate(task.classes)}
    labels = [
        np.array([position[int(one)] for one in source.labels[found]]) for source, found in ((train, head), (val, test))
    ]
    fitted = jp.evaluate.heads.ridge(1.0)(features(train, head), labels[0], len(task.classes))
    outputs = np.asarray(fitted(features(val, test)))
    return "".join("01"[int(hit)] for hit in np.argmax(outputs, -1) == labels[1])


def test_indices_share_no_image_among_splits_and_test_on_the_images_kept_for_it(place, tmp_path):
    inputs = transfer.open_study(asked(place, tmp_path))
    parts = {name: inputs.indices(0, name) for name in ("scoring", "head", "finetuning", "selection", "test")}
    assert parts["test"][0].name == "folder:val"
    kept = inputs.indices(0, "certificate")
    assert kept[0].name == "folder:val"
    assert len({*parts["test"][1].tolist(), *kept[1].tolist()}) == 20 * COUNTS["val"]
    assert len(parts["test"][1]) + len(kept[1]) == 20 * COUNTS["val"]
    others = np.concatenate([found for name, (_, found) in parts.items() if name != "test"])
    assert len(set(others.tolist())) == len(others) == 20 * COUNTS["train"]
    assert all(source.name == "folder:train" for name, (source, _) in parts.items() if name != "test")


def test_shifted_images_when_asked_for_are_those_shifted_together(place, tmp_path):
    inputs = transfer.open_study(asked(place, tmp_path))
    classes = inputs.source.classes
    together = jp.data.shift(jp.data.as_float(inputs.part(0, "test", classes)["image"]), "noise", 0)
    moved = inputs.shifted(0, classes, "noise")
    np.testing.assert_array_equal(moved["image"], together)
    np.testing.assert_array_equal(moved["label"], inputs.part(0, "test", classes)["label"])


def test_indices_hold_at_most_so_many_images_of_a_class(place, tmp_path):
    inputs = transfer.open_study(asked(place, tmp_path, most_per_class=2))
    source, found = inputs.indices(0, "test")
    assert np.unique(source.labels[found], return_counts=True)[1].tolist() == [2] * 20


def test_transfer_by_the_public_protocol_says_what_leaks_and_what_it_does(place, tmp_path):
    settings = asked(place, tmp_path, protocol="public-proxy", shifts=(), finetune_rate=None)
    inputs = transfer.open_study(settings)
    for name in ("head", "finetuning", "test"):
        source, found = inputs.indices(0, name, inputs.source.classes)
        assert (source.name, len(found)) == ("folder:val", 30)
    completed = inputs.settings
    assert (completed.rounds, completed.finetune_rates, completed.label_loss) == (100, (5e-5,), "squared_error")
    assert completed.batch_size == 10  # what was asked for stays
    text = said(settings)
    assert "Leak: The head of a task is fitted on the very images that test it" in text
    assert "at a rate of 5e-05." in text
    for name, given in (("finetune_rate", 1e-3), ("finetune_rates", (1e-3,))):  # also here, one that is asked for
        asked_for = dataclasses.replace(settings, **{name: given})
        assert protocol.with_protocol(asked_for, inputs).finetune_rates == asked_for.finetune_rates
        assert protocol.with_protocol(asked_for, inputs).finetune_rate == asked_for.finetune_rate


def test_part_by_the_public_protocol_is_the_first_images_by_class_not_of_every_class(place, tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "PROXY_SCORING", 4)
    inputs = transfer.open_study(asked(place, tmp_path, protocol="public-proxy"))
    data = inputs.part(0, "scoring", inputs.source.classes)
    source, found = inputs.indices(0, "scoring", inputs.source.classes)
    assert np.asarray(source.labels[found]).tolist() == [928, 928, 928, 932]  # the lowest classes of food
    assert data["label"].tolist() == [4, 4, 4, 8]  # as the task counts them
    assert inputs.settings.finetune_steps == 1  # as asked for
    unasked = dataclasses.replace(asked(place, tmp_path, protocol="public-proxy"), finetune_steps=100, batch_size=20)
    assert transfer.open_study(unasked).settings.finetune_steps == 90 * 2


def test_whole_batches_are_the_same_from_memory_and_from_disk(place, tmp_path):
    inputs = transfer.open_study(asked(place, tmp_path))
    source, found = inputs.indices(0, "finetuning", inputs.source.classes)
    streamed = jp.data.stream(source, found, inputs.source.classes)
    held = {**streamed, "image": np.asarray(streamed["image"])}
    cut = [frozen_heads.whole_batches(data, 6) for data in (streamed, held)]
    assert [len(batch["label"]) for batch in cut[0]] == [5, 5, 5, 5]
    for one, other in zip(*cut, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_open_inputs_tells_other_images_of_one_name_apart_also_without_weights(place, tmp_path):
    images, changed = tmp_path / "images", []
    for name in ("cat", "dog"):
        (images / name).mkdir(parents=True)
        for number in range(25):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(images / name / f"{number}.png")
    for colour in (1, 2):
        Image.new("RGB", (8, 8), (0, colour, 0)).save(images / "cat" / "0.png")
        settings = transfer.Settings(data=f"folder:{images}", image=8, batch_size=16, out=tmp_path / "out")
        changed.append(transfer.open_study(settings).fingerprint)
    assert changed[0] != changed[1]


def test_open_study_brings_arrays_to_the_size_of_the_network(place, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 48, 40, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", image=pixels, label=np.arange(60) % 2)
    options = {"data": f"npz:{tmp_path / 'data.npz'}", "tasks": ()}
    inputs = transfer.open_study(asked(place, tmp_path / "out", **options))
    np.testing.assert_array_equal(
        inputs.images.images(np.array([5]))[0], jp.data.preprocess(pixels[5], inputs.weights.preprocess)
    )
    np.savez(tmp_path / "data.npz", image=(pixels / 255).astype(np.float32), label=np.arange(60) % 2)
    with pytest.raises(ValueError, match="data: expected images of 32 x 32 pixels, or bytes that can be resized"):
        transfer.open_study(asked(place, tmp_path / "out", **options))


def test_open_study_refuses_train_without_val(place, tmp_path):
    (tmp_path / "data" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"data: expected a folder for each class .* has train and no val"):
        transfer.open_study(asked(place, tmp_path / "out", data=f"folder:{tmp_path / 'data'}"))


def test_transformation_of_the_public_protocol_steps_as_sgd_in_pytorch():
    # w <- w - rate (m <- 0.9 m + g + 1e-4 w), and a tenth of the rate after 30 of 90 epochs.
    tx = protocol.transformation(0.1, 90)
    weight, momentum = 2.0, 0.0
    params, state = jax.numpy.asarray(2.0), tx.init(jax.numpy.asarray(2.0))
    for step in range(40):
        gradient = np.cos(step)
        momentum = 0.9 * momentum + gradient + 1e-4 * weight
        weight -= (0.1 if step < 30 else 0.01) * momentum
        updates, state = tx.update(jax.numpy.asarray(gradient), state, params)
        params = params + updates
    assert float(params) == pytest.approx(weight, rel=1e-12)


def test_transfer_dry_run_says_what_would_be_done_and_computes_nothing(place, tmp_path):
    text = said(asked(place, tmp_path, methods=("magnitude", "obs")))
    weights = {name: one for name, one in tensors("torchvision/resnet18").items() if "running" not in name}
    sizes = [one.size for name, one in weights.items() if one.ndim and not name.startswith("fc.")]
    kernels = sum(one.size for one in weights.values() if one.ndim == 4)
    for part in (
        "3 runs: 1 seed, the dense network and 2 methods",
        "runs 3, done 0, to do 3",
        f"{sum(sizes):,} parameters, {kernels:,} prunable",
        "folder:train: 200 of 1,180 images are used, 32 x 32 x 3",
        "scoring 40, finetuning 20, head 60, selection 20, test 40",
        "images/s",
        "In all about",
        "and what label/obs take, which is not estimated",
        "may be taken. Nothing was computed.",
        "at a rate of 0.0001.",
    ):
        assert part in text, text
    assert not list((tmp_path / "records").iterdir())


def test_open_study_refuses_or_counts_images_that_cannot_be_read(place, tmp_path):
    broken = place / "train" / "n00000933" / "broken.JPEG"
    broken.write_bytes((place / "train" / "n00000933" / "0.JPEG").read_bytes()[:100])
    try:
        with pytest.raises(ValueError, match=r"folder: 1 of 201 images of folder:train cannot[\s\S]*broken\.JPEG"):
            transfer.open_study(asked(place, tmp_path))
        inputs = transfer.open_study(asked(place, tmp_path, on_error="skip"))
        assert inputs.skipped == {"folder:train": 1}
    finally:
        broken.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": ""}, r"architecture: expected whose weights .* It looks like torchvision/resnet18\."),
        ({"architecture": "torchvision/resnet81"}, "unknown value 'torchvision/resnet81'. Did you mean"),
        (
            {"architecture": "torchvision/resnet34"},
            r"is not of torchvision/resnet34.*It looks like torchvision/resnet18\.",
        ),
        (
            {"architecture": "resnet18"},
            r"architecture: unknown value 'resnet18', which lacks its source\. Write torchvision/resnet18\.",
        ),
        (
            {"architecture": "resnet50"},
            r"lacks its source\. Write clip/resnet50 or dino/resnet50 or moco_v2/resnet50 or torchvision/resnet50",
        ),
        ({"weights": "nowhere.pth"}, r"weights: there is no file 'nowhere\.pth'"),
        ({"data": "npz:nowhere.npz"}, r"npz: .*nowhere\.npz"),
        ({"tasks": ("food",)}, "tasks: expected two or more"),
        ({"batch_size": 10**9}, "batch_size: expected at most the 1,180 images of folder:train, but got 1,000,000,000"),
        ({"tasks": ("fod",)}, "task: unknown value 'fod'. Did you mean 'food'"),
        ({"source": "birds"}, "task: unknown value 'birds'"),
        ({"most_per_class": -1}, "most_per_class: expected a whole number of 0 or more"),
        ({"protocol": "leaky"}, "protocol: unknown value 'leaky'"),
        (
            {"protocol": "public-proxy", "finetune_rate": None, "finetune_rates": (1e-4, 1e-3)},
            "finetune_rates: expected one under public-proxy, whose selection images are those of the test, but got",
        ),
        ({"protocol": "public-proxy", "most_per_class": 5}, "most_per_class: expected 0 under public-proxy"),
        ({"protocol": "public-proxy", "rungs": (0.1,)}, r"rungs: expected none under public-proxy.*got \(0\.1,\)"),
        ({"data": "digits", "tasks": ()}, r"data: expected images in colours"),
        ({"data": "folder:"}, "data: unknown value"),
        ({"weights": "", "architecture": "torchvision/resnet18"}, "architecture: expected none"),
        (
            {"weights": "", "architecture": "", "protocol": "public-proxy"},
            "protocol: 'public-proxy' is about pretrained",
        ),
    ],
)
def test_transfer_finds_bad_values_before_any_work(place, tmp_path, monkeypatch, change, message):
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("work started")

    study = transfer.STUDY._replace(prepare=forbidden)
    with pytest.raises(ValueError, match=message):
        run(study, dataclasses.replace(asked(place, tmp_path), **change), Console(file=io.StringIO()))


def test_open_study_takes_one_flipped_bit_of_the_weights_as_another_asked(place, tmp_path):
    content = bytearray((place / "resnet18.pth").read_bytes())
    found = tensor_files.read(place / "resnet18.pth").tensors["fc.bias"]
    changed = {**tensors("torchvision/resnet18"), "fc.bias": np.where(np.arange(1000) == 3, 0, found)}
    tensor_files.write(tmp_path / "other.pth", {name: np.asarray(one, np.float32) for name, one in changed.items()})
    assert (tmp_path / "other.pth").read_bytes() != bytes(content)
    settings = asked(place, tmp_path / "out")
    first, second = (
        transfer.open_study(dataclasses.replace(settings, weights=str(path))).fingerprint
        for path in (place / "resnet18.pth", tmp_path / "other.pth")
    )
    assert first != second


def test_load_weights_takes_a_network_of_ours_with_its_preprocessing(place, tmp_path):
    module = jp.models.resnet_cifar(8, 5, 2)
    made = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    preprocess = jp.types.Preprocess(resize=20, crop=16, interpolation="bicubic")
    params, state = made["params"], {"batch_stats": made["batch_stats"]}
    jp.structured.save(tmp_path / "net", module, params, state, (16, 16, 3), preprocess)
    loaded = pretrained.load_weights(str(tmp_path / "net"), "jaxprune", None)
    other = jp.types.Preprocess(resize=20, crop=16, interpolation="bilinear")
    jp.structured.save(tmp_path / "other", module, params, state, (16, 16, 3), other)
    assert pretrained.load_weights(str(tmp_path / "other"), "jaxprune", None).fingerprint != loaded.fingerprint
    assert loaded.preprocess == preprocess
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    expected = module.apply(made, jp.data.normalise(pixels, preprocess))
    np.testing.assert_allclose(loaded.network(pixels), expected, rtol=1e-5, atol=1e-6)


def test_convert_reports_writes_and_compares(place, tmp_path):
    text, convert = io.StringIO(), script("convert")
    console = Console(file=text, width=200)
    convert.main(convert.Conversion(place / "resnet18.pth"), console)
    assert "102 tensors" in text.getvalue()
    assert "It looks like torchvision/resnet18." in text.getvalue()
    for name in ("net.safetensors", "net"):
        settings = convert.Conversion(place / "resnet18.pth", "torchvision/resnet18", out=tmp_path / name)
        convert.main(settings, console)
    assert text.getvalue().count("equal bit for bit") == 2
    assert json.loads((tmp_path / "net" / "specification.json").read_text())["preprocess"]["crop"] == 224
    again = tensor_files.read(tmp_path / "net.safetensors").tensors
    for name, expected in tensor_files.read(place / "resnet18.pth").tensors.items():
        np.testing.assert_array_equal(again[name], expected)
