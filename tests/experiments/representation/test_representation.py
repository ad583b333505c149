import itertools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments.representation_measures import pairs_and_others, places, stands, written
from experiments.transfer_grid import mine
from jax.ad_checkpoint import checkpoint_name
from PIL import Image

import jaxprune as jp
from experiments import options
from experiments import representation_data as looked
from experiments import representation_settings as settings
from experiments.representation import demand_same_data, world_and_network
from jaxprune.evaluate import alignment
from tests import studies

ROOT = Path(__file__).parents[1]
SMOKE: dict[str, Any] = {
    "architectures": ("resnet-small", "vit"),
    "seeds": (0,),
    "train_examples": 60,
    "test_examples": 30,
    "attributed_examples": 4,
    "batch_size": 10,
    "first_steps": 4,
    "steps": 3,
    "rungs": 2,
    "random_rungs": (1,),
    "snip_rungs": (1,),
    "distorted_rungs": (0, 1),
    "distortions": ("contrast", "rotation"),
    "path_steps": 3,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return studies.make("representation", SMOKE, tmp_path_factory.mktemp("representation"), shards="1/2")


def test_representation_keeps_what_every_study_promises(made, monkeypatch):
    assert made.kills == [6]  # dense, ladder; dense again, control; random; SNIP
    studies.check_promises(made, monkeypatch)


def test_representation_makes_a_record_of_every_network_and_the_page(made):
    runs = settings.grid(settings.Study(**SMOKE))
    assert len(studies.digests(made.whole)) == len(runs) + 1 == 11
    page = (made.whole / "index.html").read_text()
    assert "<svg" in page
    for name in SMOKE["architectures"]:
        assert options.ARCHITECTURES[name].title in page
    assert "no people were asked" in page.lower()
    tables = {path.name for path in made.whole.glob("*.csv")}
    assert {"verdicts.csv", "curves.csv"} <= tables


def test_measure_gives_every_measure_image_by_image(made):
    found = [one for one in made.records() if "hits" in one["metrics"]]
    kinds = set()
    for one in found:
        metrics, config = one["metrics"], one["config"]
        methods = options.ARCHITECTURES[config["architecture"]].methods
        assert set(metrics["attribution"]) == {*methods, "random map"}
        for name, scores in metrics["attribution"].items():
            for measure in ("mass", "rank", "pointing", "insertion", "deletion"):
                values = np.array(scores[measure])
                assert values.shape == (4,), name
                assert np.all((values >= 0) & (values <= 1)), (name, measure)
        assert len(metrics["hits"]) == 30
        assert all(len(metrics["discovery"][method]["hits"]) == 30 for method in ("lost", "tokencut"))
        assert len(metrics["distorted"]) == 8 + 4
        kinds.add((config["arm"], config["rung"], round(metrics["sparsity"], 2)))
    assert kinds == {("ladder", 0, 0), ("ladder", 1, 0.36), ("control", 1, 0), ("random", 1, 0.36), ("snip", 1, 0.36)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ("vgg",)}, "architectures: unknown value 'vgg'"),
        ({"seeds": ()}, "seeds: expected one or more"),
        ({"distortions": ("fog",)}, "distortions: unknown value 'fog'"),
        ({"score": "size"}, "score: unknown value 'size'"),
        ({"random_rungs": (8,)}, r"random_rungs: expected rungs in \[1, 8\)"),
        ({"snip_rungs": (0,)}, r"snip_rungs: expected rungs in \[1, 8\)"),
        ({"distorted_rungs": (1,)}, "distorted_rungs: expected rung 0"),
        ({"attributed_examples": 300}, "attributed_examples: expected at most test_examples"),
        ({"share": 1.0}, "share: expected"),
        ({"steps": 0}, "steps: expected a finite number above 0"),
        ({"image": 30}, "image: expected a multiple of 8"),
        ({"margin": -0.1}, "margin: expected 0 or more"),
        ({"shard": "5/4"}, "shard: expected i/n"),
        ({"difficulty": 3.0}, r"difficulty: expected a number in \[0, 1\]"),
        ({"train_examples": 5}, "train_examples, test_examples: expected 20 or more"),
        ({"random_rungs": (2, 2)}, "random_rungs: expected each rung once"),
        ({"share": 0.999}, "share, rungs: the last rung would prune"),
        ({"exclude": ".*"}, "include/exclude: expected patterns that leave something"),
        ({"exclude": "querry"}, "exclude: expected a regular expression that kernels match"),
        ({"object_values": (1,)}, "object_values, void_values: expected none"),
        ({"exclude": "("}, "exclude: expected a regular expression"),
    ],
)
def test_validate_refuses_bad_settings_before_anything_starts(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        settings.validate(settings.Study(out=tmp_path, **changes))


@pytest.mark.parametrize(
    ("data", "message"),
    [("cifar", "data: unknown value"), ("voc:", "data: unknown value"), ("folder:/nowhere", "nowhere")],
)
def test_open_data_refuses_what_cannot_be_read_before_anything_starts(data, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        looked.open_data(settings.Study(data=data))


def test_mine_makes_shards_that_share_no_training_and_make_the_whole_grid():
    study = settings.Study(seeds=(0, 1))
    runs = settings.grid(study)
    parts = [mine(runs, f"{number}/3", world_and_network) for number in (1, 2, 3)]
    assert sum(map(len, parts)) == len(runs)
    owners = [{(run.architecture, run.seed) for run in one} for one in parts]
    assert not owners[0] & owners[1]
    assert not owners[1] & owners[2]
    assert not owners[0] & owners[2]


def test_grid_of_the_bundled_study_is_that_of_the_issue():
    study = settings.Study()
    assert [round(100 * value, 1) for value in settings.schedule(study)] == [0, 36, 59, 73.8, 83.2, 89.3, 93.1, 95.6]
    assert len(settings.grid(study)) == 228


def test_resolved_takes_over_what_legacy_says(tmp_path):
    study = settings.resolved(settings.Study(legacy=True, out=tmp_path))
    assert study.steps == study.first_steps == settings.Study().first_steps
    conditions = [f"contrast {level}" for level in jp.data.DISTORTIONS["contrast"]]
    assert looked.kept_conditions(study, conditions) == conditions
    kept = looked.kept_conditions(settings.Study(), conditions)
    assert [one for one in conditions if one not in kept] == [
        f"contrast {one}" for one in alignment.EXCLUDED["contrast"]
    ]


def test_watched_observers_err_more_under_stronger_distortion():
    study = settings.Study(train_examples=20, test_examples=100, distortions=("contrast",))
    world = looked.prepare(study, 0)
    right = [np.mean(one.correct) for one in looked.watched(world, study, 0).values()]
    assert right[0] > 0.9
    assert right[-1] < 0.4
    assert all(late < early + 0.03 for early, late in itertools.pairwise(right))


def test_pairs_and_others_hold_two_of_a_class_and_one_of_another():
    labels = np.random.default_rng(0).integers(5, size=50)
    first, second, third = labels[pairs_and_others(labels, 0)].T
    assert len(first) == 400
    assert np.all(first == second)
    assert np.all(first != third)


def test_written_maps_are_kept_as_bytes():
    kept = np.frombuffer(bytes.fromhex(written(np.array([[0.0, 1.0], [2.0, 4.0]]))), np.uint8)
    assert kept.tolist() == [0, 64, 128, 255]
    assert written(np.zeros((2, 2))) == "00" * 4


@pytest.mark.parametrize("name", options.ARCHITECTURES)
def test_architecture_has_the_sites_that_the_study_reads(name):
    kind, images = options.ARCHITECTURES[name], np.zeros((2, 32, 32, 3), np.float32)
    module = kind.module(10, 32)
    variables = jax.jit(module.init)(jax.random.key(0), images)
    network = jp.Network.from_linen(module, variables)
    assert {kind.cam, kind.tokens, "features"} <= set(jp.sites.tags(network, images))
    assert set(kind.methods) <= set(options.ATTRIBUTIONS)
    unpruned = [leaf for leaf in jp.tree.names(network.params) if kind.unpruned and re.search(kind.unpruned, leaf)]
    assert bool(unpruned) == bool(kind.unpruned)
    assert places(kind, network, images).shape[:3] == (2, 8, 8)


def test_resolved_leaves_out_default_rungs_that_a_shorter_ladder_lacks():
    study = settings.resolved(settings.Study(rungs=4))
    assert (study.random_rungs, study.snip_rungs, study.distorted_rungs) == ((2,), (), (0, 2))
    assert settings.resolved(settings.Study(rungs=4, random_rungs=(7,))).random_rungs == (7,)  # asked for, and refused


def folder_of_classes(folder: Path, classes: int, each: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(classes):
        for kind in ("images", "masks"):
            (folder / kind / f"class{number}").mkdir(parents=True)
        for one in range(each):
            mask = np.zeros((40, 48), np.uint8)
            mask[8:24, 10 + number : 30] = 255
            picture = rng.integers(0, 256, (40, 48, 3)).astype(np.uint8)
            picture[mask > 0] = 40 * number
            Image.fromarray(picture).save(folder / "images" / f"class{number}" / f"{one}.png")
            Image.fromarray(mask).save(folder / "masks" / f"class{number}" / f"{one}.png")
    return folder


def test_prepare_takes_few_test_images_of_a_folder_of_all_classes(tmp_path):
    data = f"folder:{folder_of_classes(tmp_path, 4, 20)}"
    study = settings.Study(data=data, test_examples=12, attributed_examples=8)
    looked.open_data(study)
    world = looked.prepare(study, 0)
    labels = np.asarray(world.test.labels)
    assert np.bincount(labels).tolist() == [3, 3, 3, 3]
    assert sorted(labels[:4]) == sorted(labels[4:8]) == [0, 1, 2, 3]
    assert world.conflict is None
    assert len(world.training["label"]) == 56
    with pytest.raises(ValueError, match="attributed_examples: expected at most the 12"):
        looked.open_data(settings.Study(data=data, test_examples=12))
    with pytest.raises(ValueError, match="two of one of them"):
        looked.open_data(settings.Study(data=data, test_examples=4, attributed_examples=4))


def test_demand_same_data_refuses_records_of_other_images(tmp_path):
    world = looked.prepare(settings.Study(train_examples=20, test_examples=20, distortions=("contrast",)), 0)
    mine_, others = ({"provenance": {"data": data}, "config": {"seed": 0}} for data in (world.fingerprint, "0000"))
    demand_same_data(world, [mine_])
    with pytest.raises(ValueError, match="data: 1 records of seed 0 were made with other images"):
        demand_same_data(world, [mine_, others])


def test_places_of_moved_patches_lie_where_the_patches_lie():
    """A network whose keys are the mean places of its patches: twice as many of them, evenly spaced."""
    rows, columns = np.mgrid[:32, :32]
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=-1)[None].astype(np.float32)

    def apply(params, state, images):
        patches = images.reshape(len(images), 4, 8, 4, 8, 3).mean(axis=(2, 4)).reshape(len(images), 16, 3)
        tokens = jnp.concatenate([jnp.zeros_like(patches[:, :1]), patches], axis=1)
        return checkpoint_name(tokens, "block2/keys").mean(axis=1) * params

    kind = options.ARCHITECTURES["vit"]
    found = np.asarray(places(kind, jp.Network(apply, jnp.ones(())), image))[0]
    assert found.shape == (8, 8, 3)
    inside = found[1:-1, 1:-1]  # at the edges the image repeats
    np.testing.assert_allclose(inside[:, 0, 0], 4 * np.arange(1, 7) + 1.5, atol=1e-5)
    np.testing.assert_allclose(inside[0, :, 1], 4 * np.arange(1, 7) + 1.5, atol=1e-5)


def test_stands_does_not_depend_on_confidence():
    outputs, targets = jnp.array([[1.0, 2.0], [3.0, 1.0]]), jnp.array([1, 1])
    assert stands(outputs, targets).tolist() == stands(10 * outputs, targets).tolist() == [1.0, 0.0]
