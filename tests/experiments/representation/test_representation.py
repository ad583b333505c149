import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from PIL import Image
from rich.console import Console

import jaxprune as jp
from experiments import representation
from experiments.representation import Settings, networks, open_study, plan
from experiments.representation.architectures import ARCHITECTURES, ATTRIBUTIONS, Architecture, digest
from experiments.representation.measures import kept_conditions, places, stands, watched, written
from experiments.representation.settings import Run, Truth, resolved
from experiments.shared import named
from experiments.shared.study import run
from experiments.shared.work import part
from jaxprune import records
from jaxprune.evaluate import alignment
from tests.experiments import studies

SMOKE: dict[str, Any] = {
    "architectures": ("vit", "resnet-small"),
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


# What users bring: images, a score, an architecture; and what is none of them.

_SHADE = 0.9


def squares() -> jp.data.Annotated:
    """Forty images of four classes: a square of the class's own side."""
    labels = np.arange(40) % 4
    mask = np.zeros((40, 32, 32), bool)
    for one, label in zip(mask, labels, strict=True):
        one[4 : 10 + 4 * label, 4 : 10 + 4 * label] = True
    images = np.repeat(np.where(mask, _SHADE, 0.1).astype(np.float32)[..., None], 3, axis=-1)
    boxes = tuple(np.array([[4, 4, 10 + 4 * label, 10 + 4 * label]], np.int32) for label in labels)
    return jp.data.Annotated("squares", images, mask, np.zeros_like(mask), boxes, labels, tuple("abcd"))


def least(network: jp.Network, batches: Any, loss: Any) -> Any:
    return jp.scores.snip(loss)(network, batches)


class Tiny(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, images: Any, train: bool = False) -> Any:
        map_ = checkpoint_name(nn.relu(nn.Conv(8, (4, 4), (4, 4))(images)), "map")
        features = checkpoint_name(map_.mean(axis=(1, 2)), "features")
        return nn.Dense(self.classes)(features)


def tiny(**changes: Any) -> Architecture:
    options: dict[str, Any] = {"rate": 1e-3, "cam": "map", "tokens": "map", "is_map": True}
    methods = ("grad-cam", "integrated-gradients")
    return Architecture(
        **{"title": "Tiny", "module": lambda classes, _: Tiny(classes), "methods": methods} | options | changes
    )


def same() -> Architecture:
    return tiny()


def blind() -> Architecture:
    return tiny(cam="nowhere")


def patchless() -> Architecture:
    return tiny(is_map=False)


def silent() -> Architecture:
    return tiny(methods=("grad-cam",))


def number() -> int:
    return 1


OWN: dict[str, Any] = {"data": squares, "method": least, "architectures": (tiny,), "attributed_examples": 4}
OWN |= {"batch_size": 8, "test_examples": 12}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return studies.make("representation", SMOKE, tmp_path_factory.mktemp("representation"), shards="1/2")


def test_representation_keeps_what_every_study_promises(made, monkeypatch):
    # Dense; ladder; the control's dense network, which is loaded; random.  Once those are done nobody asks for them
    # again, so that the last pass does them no more: it trains, or loads, the control's dense, the control, SNIP.
    assert made.kills == [4]
    studies.check_promises(made, monkeypatch)


def test_representation_makes_a_record_of_every_network_and_the_page(made):
    runs = plan(Settings(**SMOKE), None)
    assert len(studies.digests(made.whole)) == len(runs) == 11
    assert [type(one) for one in runs] == [Truth] + 10 * [Run]
    page = (made.whole / "index.html").read_text()
    assert "<svg" in page
    for name in SMOKE["architectures"]:
        assert ARCHITECTURES[name].title in page
    assert "no people were asked" in page.lower()
    tables = {path.name for path in made.whole.glob("*.csv")}
    assert tables == {f"{name}.csv" for name in ("verdicts", "metrics", "curves", "gains", "flat_maps")}


def test_measure_gives_every_measure_image_by_image(made):
    found = [one for one in made.records() if "hits" in one["metrics"]]
    kinds = set()
    for one in found:
        metrics, config = one["metrics"], one["config"]
        methods = ARCHITECTURES[config["architecture"]].methods
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
        ({"method": "size"}, "method: unknown value 'size'"),
        ({"method": "source-head/diagonal"}, "method: objective: unknown value 'source-head'. .*Known: label, logits"),
        ({"method": "features/diagonal"}, "method: objective: unknown value 'features'"),
        ({"method": "logits/snip"}, "method: snip ranks by a gradient"),
        (
            {"method": "logits/greedy+rounds"},
            r"method: expected no update or \+surgeon, but got 'logits/greedy\+rounds'",
        ),
        ({"random_rungs": (8,)}, r"random_rungs: expected rungs in \[1, 8\)"),
        ({"snip_rungs": (0,)}, r"snip_rungs: expected rungs in \[1, 8\)"),
        ({"distorted_rungs": (1,)}, "distorted_rungs: expected rung 0"),
        ({"attributed_examples": 300}, "attributed_examples: expected at most test_examples"),
        ({"share": 1.0}, "share: expected"),
        ({"steps": 0}, "steps: expected a whole number of 1 or more, but got 0"),
        ({"rungs": 1}, "rungs: expected a whole number of 2 or more, but got 1"),
        (
            {"batch_size": 10**9},
            "batch_size: expected at most the 8,000 images of the training part, but got 1,000,000,000",
        ),
        ({"image": 2**15}, "image, train_examples, test_examples: expected scenes that fit into memory, but they take"),
        ({"seeds": (2**32,)}, "seeds: expected whole numbers from 0 to"),
        ({"data": "shape"}, "data: unknown value 'shape'. Did you mean 'shapes'"),
        ({"data": "voc:"}, "data: unknown value 'voc:'"),
        ({"data": "nowhere:images"}, "data: there is no module 'nowhere'"),
        ({"data": number}, "data: expected .*:number to return a jp.data.Annotated, but got int"),
        ({"method": "nowhere:size"}, "method: there is no module 'nowhere'"),
        ({"architectures": (number,)}, "architectures: expected .*:number to return an Architecture of"),
        (
            {"architectures": (blind,)},
            "architectures: .*:blind: cam: unknown value 'nowhere'. .*Known: features, map",
        ),
        ({"architectures": (patchless,)}, "architectures: .*: patch: expected a multiple of 4, since it is no map"),
        ({"architectures": (silent,)}, "methods: expected integrated-gradients among them"),
        ({"architectures": ("vit", "nowhere:net")}, "architectures: there is no module 'nowhere'"),
        ({"image": 30}, "image: expected a multiple of 8"),
        ({"margin": -0.1}, "margin: expected 0 or more"),
        ({"shard": "5/4"}, "shard: expected i/n"),
        ({"difficulty": 3.0}, r"difficulty: expected a number in \[0, 1\]"),
        ({"train_examples": 5}, "train_examples, test_examples: expected 20 or more"),
        ({"random_rungs": (2, 2)}, "random_rungs: expected one or more, each of them once"),
        ({"share": 0.999}, "share, rungs: the last rung would prune"),
        ({"exclude": ".*"}, "include/exclude: expected patterns that leave something"),
        ({"exclude": "querry"}, "exclude: expected a regular expression that kernels match"),
        ({"object_values": (1,)}, "object_values, void_values: expected none"),
        ({"exclude": "("}, "exclude: expected a regular expression"),
    ],
)
def test_validate_refuses_bad_settings_before_anything_starts(tmp_path, monkeypatch, changes, message):
    studies.refused("representation", tmp_path, monkeypatch, message, **{"architectures": ("vit",), **changes})


def test_open_study_refuses_a_folder_that_is_not_there():
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        open_study(Settings(data="folder:/nowhere"))


def test_part_makes_shards_that_share_no_training_and_make_the_whole_study():
    runs = plan(Settings(seeds=(0, 1)), None)
    parts = [part(runs, f"{number}/3", representation.STUDY.shared) for number in (1, 2, 3)]
    assert sum(map(len, parts)) == len(runs)
    owners = [{(one.seed, getattr(one, "architecture", "")) for one in part_} for part_ in parts]
    assert not owners[0] & owners[1]
    assert not owners[1] & owners[2]
    assert not owners[0] & owners[2]


def test_plan_of_the_bundled_study_is_that_of_the_issue():
    assert [round(100 * value, 1) for value in jp.schedules.ladder(Settings().rungs, Settings().share)] == [
        0,
        36,
        59,
        73.8,
        83.2,
        89.3,
        93.1,
        95.6,
    ]
    runs = plan(Settings(), None)
    assert sum(isinstance(one, Run) for one in runs) == 228
    assert [place for place, one in enumerate(runs) if isinstance(one, Truth)] == [0, 77, 154]


def test_resolved_takes_over_what_legacy_says():
    study = resolved(Settings(legacy=True))
    assert study.steps == study.first_steps == Settings().first_steps
    conditions = [f"contrast {level}" for level in jp.data.DISTORTIONS["contrast"]]
    assert kept_conditions(study, conditions) == conditions
    kept = kept_conditions(Settings(), conditions)
    assert [one for one in conditions if one not in kept] == [
        f"contrast {one}" for one in alignment.EXCLUDED["contrast"]
    ]


def test_resolved_names_functions_so_that_records_are_those_of_their_names():
    passed = resolved(Settings(method=least, architectures=("vit", tiny)))
    names = [f"{__name__}:{one}" for one in ("least", "tiny")]
    assert [one.partition("@")[0] for one in (passed.method, *passed.architectures)] == [
        f"label/{names[0]}",
        "vit",
        names[1],
    ]
    assert resolved(Settings(method=names[0], architectures=("vit", names[1]))) == passed


def test_watched_observers_err_more_under_stronger_distortion():
    study = Settings(train_examples=20, test_examples=100, batch_size=10, distortions=("contrast",))
    images = open_study(study).images(0)
    right = [np.mean(one.correct) for one in watched(images, study, 0).values()]
    assert right[0] > 0.9
    assert right[-1] < 0.4
    assert all(late < early + 0.03 for early, late in itertools.pairwise(right))


def test_written_maps_are_kept_as_bytes():
    kept = np.frombuffer(bytes.fromhex(written(np.array([[0.0, 1.0], [2.0, 4.0]]))), np.uint8)
    assert kept.tolist() == [0, 64, 128, 255]
    assert written(np.zeros((2, 2))) == "00" * 4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_has_the_sites_that_the_study_reads(name):
    kind, images = ARCHITECTURES[name], np.zeros((2, 32, 32, 3), np.float32)
    module = kind.module(10, 32)
    variables = jax.jit(module.init)(jax.random.key(0), images)
    network = jp.Network.from_linen(module, variables)
    assert {kind.cam, kind.tokens, "features"} <= set(jp.sites.tags(network, images))
    assert set(kind.methods) <= set(ATTRIBUTIONS)
    unpruned = [leaf for leaf in jp.tree.names(network.params) if kind.unpruned and re.search(kind.unpruned, leaf)]
    assert bool(unpruned) == bool(kind.unpruned)
    assert places(kind, network, images).shape[:3] == (2, 8, 8)


def test_architecture_says_of_its_layers_what_its_module_says():
    residual, vision, shifted = (ARCHITECTURES[name].describe(32) for name in ("resnet-large", "vit", "swin"))
    inner, stem = [one[0] for one in residual["blocks"].values()], (residual["width"], residual["stem_stride"])
    depth = sum(len(one) + 1 for one in residual["blocks"].values()) + 2
    assert ARCHITECTURES["resnet-large"].layers == (
        f"depth {depth}, {len(inner)} basic blocks of inner width {inner[0]}, {inner[1]} and {inner[2]}, a stem of "
        f"width {stem[0]} and stride {stem[1]}"
    )

    def heads(block: Any) -> str:
        return f"{block['heads']} heads, {block['hidden']} hidden units"

    blocks = vision["blocks"]
    assert ARCHITECTURES["vit"].layers == (
        f"patches of {vision['patch']} pixels, width {vision['width']}, depth {len(blocks)}, {heads(blocks['block0'])}"
    )
    stages = [[block for name, block in shifted["blocks"].items() if name.startswith(f"stage{one}")] for one in (1, 2)]
    each = [
        f"{len(found)} blocks of width {found[0]['heads'] * width} ({heads(found[0])})"
        for found, width in zip(stages, shifted["head_widths"], strict=True)
    ]
    assert ARCHITECTURES["swin"].layers == (
        f"patches of {shifted['patch']} pixels, windows of {shifted['window']} × {shifted['window']} tokens, stages of "
        f"{each[0]} and {each[1]}"
    )


def test_digest_of_a_function_of_the_users_is_that_of_its_text():
    named = [f"{__name__}:{one}" for one in ("tiny", "same")]
    assert digest(named[0], 32) == digest(tiny, 32) != digest(named[1], 32)
    assert digest("vit", 32) != digest("vit", 64)


def test_resolved_leaves_out_default_rungs_that_a_shorter_ladder_lacks():
    study = resolved(Settings(rungs=4))
    assert (study.random_rungs, study.snip_rungs, study.distorted_rungs) == ((2,), (), (0, 2))
    assert resolved(Settings(rungs=4, random_rungs=(7,))).random_rungs == (7,)  # asked for, and refused


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


def test_open_study_takes_few_test_images_of_a_folder_of_all_classes(tmp_path):
    data = f"folder:{folder_of_classes(tmp_path / 'four', 4, 20)}"
    study = Settings(data=data, test_examples=12, attributed_examples=8)
    images = open_study(study).images(0)
    labels = np.asarray(images.test.labels)
    assert np.bincount(labels).tolist() == [3, 3, 3, 3]
    assert sorted(labels[:4]) == sorted(labels[4:8]) == [0, 1, 2, 3]
    assert images.conflict is None
    assert len(images.training()["label"]) == 56
    with pytest.raises(ValueError, match="attributed_examples: expected at most the 24"):
        open_study(Settings(data=data))
    with pytest.raises(ValueError, match="two of one of them"):
        open_study(Settings(data=data, test_examples=4, attributed_examples=4))
    with pytest.raises(ValueError, match="batch_size: expected at most the 56 images of the training part"):
        open_study(Settings(data=data, test_examples=12, attributed_examples=8, batch_size=57))
    with pytest.raises(ValueError, match="test images of two classes or more"):
        open_study(
            Settings(data=f"folder:{folder_of_classes(tmp_path / 'one', 1, 20)}", attributed_examples=4, batch_size=4)
        )


def test_open_study_refuses_images_of_another_size_than_it_says():
    with pytest.raises(
        ValueError, match="data, image: expected images of 64 x 64 pixels, but those of squares have 32"
    ):
        open_study(Settings(**OWN, image=64))


def test_open_study_has_other_keys_for_other_images_and_other_scores(monkeypatch):
    small: dict[str, Any] = {"architectures": ("resnet-small",), "attributed_examples": 4, "batch_size": 4}
    fingerprint = lambda **changes: open_study(Settings(**{**small, **changes})).fingerprint  # noqa: E731
    painted, owned = fingerprint(), fingerprint(data=squares)
    assert painted == fingerprint() == fingerprint(train_examples=100)
    assert painted != owned
    inputs = open_study(Settings(**small, method=least))  # the text of a score is in its name
    ladder = [one for one in plan(inputs.settings, inputs) if isinstance(one, Run) and one.arm == "ladder" and one.rung]
    assert {one.score for one in ladder} == {named.versioned(least)}
    jax.config.update("jax_enable_x64", False)
    assert painted == fingerprint()
    scenes = jp.data.scenes
    monkeypatch.setattr(jp.data, "scenes", lambda *arguments, **options: scenes(*arguments, **{**options, "image": 40}))
    assert fingerprint() != painted
    monkeypatch.setitem(globals(), "_SHADE", 0.5)
    assert fingerprint(data=squares) != owned


def test_tested_says_which_images_test_the_networks_of_a_seed():
    inputs, images = representation.Inputs(Settings(**OWN), squares(), "data"), squares().images
    found = [np.asarray(inputs.tested(seed)) for seed in (0, 1)]
    for seed, known in enumerate(found):
        assert len(set(known)) == 12
        np.testing.assert_array_equal(inputs.images(seed).test.images, images[known])
    assert set(found[0]) != set(found[1])
    # Painted scenes are of one seed alone.
    assert representation.Inputs(Settings(**SMOKE), None, "data").tested(0) is None


def test_images_of_a_seed_are_made_once_for_all_architectures(monkeypatch):
    inputs = open_study(Settings(**SMOKE))
    first = inputs.images(0)
    scenes, painted = jp.data.scenes, []
    monkeypatch.setattr(jp.data, "scenes", lambda *arguments, **named: painted.append(1) or scenes(*arguments, **named))
    assert inputs.images(0) is first
    assert first.training() is first.training()
    assert len(painted) == 1


def test_trainings_give_equal_networks_in_any_order_and_with_gaps(tmp_path, monkeypatch):
    kept, counts = {}, []

    def trained(
        out: Path, network: jp.Network, loss: Any, tx: Any, data: Any, identity: Any, mask: Any, **fit: Any
    ) -> Any:
        """Trains at once, where a checkpoint would be missing: weights shrink by what is trained."""
        start = records.fingerprint(*map(np.asarray, jax.tree.leaves((network.params, mask))))
        key = (start, identity["network"], fit["steps"], fit["seed"])
        counts.append(key not in kept)
        shrink = lambda keep, leaf: np.where(keep, leaf * (1 - fit["steps"] / 100), 0)  # noqa: E731
        return kept.setdefault(key, network.replace(params=jax.tree.map(shrink, mask, network.params)))

    monkeypatch.setattr(networks, "trained", trained)
    inputs = open_study(Settings(**OWN, seeds=(0,), rungs=4, first_steps=10, steps=5))
    runs = [one for one in plan(inputs.settings, inputs) if isinstance(one, Run)]

    def made_in(order: Any) -> dict[tuple[str, int], str]:
        trainings, found = representation.prepare(inputs.settings, inputs, (0, f"{__name__}:tiny")).trainings, {}
        assert trainings is not None
        for place in order:
            found[place] = records.fingerprint(*map(np.asarray, jax.tree.leaves(trainings.network(*place))))
        return found

    places = [(one.arm, one.rung) for one in runs]
    found = made_in(places)
    assert sum(counts) == 4 + 3 + 1  # the ladder, the control, a random mask
    assert len(counts) == 4 + 4 + 3  # what an arm has reached goes on; only the random mask goes back, to the control
    counts.clear()
    assert made_in(places[::-1]) == found
    assert made_in(places[1::3]).items() <= found.items()
    assert not any(counts)
    kept.clear()
    assert made_in(places[::-1]) == found
    assert sum(counts) == 8


def test_plan_names_objective_score_and_update_of_the_arm_that_is_used():
    settings = resolved(Settings(architectures=("vit",), seeds=(0,), method="logits/greedy+surgeon"))
    runs = [one for one in plan(settings, None) if isinstance(one, Run)]
    found = {(one.arm, one.rung > 0): (one.objective, one.score, one.update) for one in runs}
    dense = ("none", "dense", "none")
    assert found == {
        ("ladder", False): dense,
        ("ladder", True): ("logits", "greedy", "surgeon"),
        ("control", True): dense,
        ("random", True): ("none", "random", "none"),
        ("snip", True): ("label", "snip", "none"),
    }
    # What the method does not change has one record, whatever the method.
    others = set(plan(resolved(dataclasses.replace(settings, method="magnitude")), None))
    assert {one.arm for one in set(runs) - others} == {"ladder"}
    assert len(set(runs) - others) == Settings().rungs - 1


@pytest.mark.parametrize("word", ["logits/diagonal+surgeon", "label/magnitude+surgeon", "magnitude"])
def test_trainings_update_kept_weights_before_they_are_trained(monkeypatch, word):
    inputs = open_study(Settings(**OWN | {"method": word}, rungs=2))
    trainings = representation.prepare(inputs.settings, inputs, (0, f"{__name__}:tiny")).trainings
    assert trainings is not None
    started = []

    def trained(
        out: Path, network: jp.Network, loss: Any, tx: Any, data: Any, identity: Any, mask: Any, **fit: Any
    ) -> Any:
        started.append((network, mask))
        return network

    monkeypatch.setattr(networks, "trained", trained)
    trainings.network("ladder", 1)
    (dense, _), (pruned, mask) = started
    batches = [{name: values[:256] for name, values in inputs.images(0).training().items()}]
    loss = jp.losses.distillation() if word.startswith("logits") else jp.losses.cross_entropy
    score = jp.scores.magnitude() if "magnitude" in word else jp.scores.diagonal_hessian(loss)
    expected = jp.masks.unstructured(0.36)(score(dense, batches), jp.tree.prunable(dense.params))
    jax.tree.map(np.testing.assert_array_equal, mask, expected)
    params = jp.masks.apply(mask, dense.params)
    if "+" in word:
        params = jp.scores.surgeon_update(loss, damping=networks.DAMPING)(dense, batches, mask)
    jax.tree.map(np.testing.assert_array_equal, pruned.params, params)


def test_trainings_go_on_after_one_that_failed(monkeypatch):
    """The others of its arm fail for the same reason, and another arm does not."""
    inputs = open_study(Settings(**OWN, rungs=3))
    trainings = representation.prepare(inputs.settings, inputs, (0, f"{__name__}:tiny")).trainings
    assert trainings is not None

    def trained(
        out: Path, network: jp.Network, loss: Any, tx: Any, data: Any, identity: Any, mask: Any, **fit: Any
    ) -> Any:
        if not all(map(np.all, jax.tree.leaves(mask))):
            raise FloatingPointError("the loss is not finite")
        return network

    monkeypatch.setattr(networks, "trained", trained)
    assert trainings.network("ladder", 0)
    for rung in (1, 2):
        with pytest.raises(FloatingPointError, match="the loss is not finite"):
            trainings.network("ladder", rung)
    assert trainings.network("control", 2)


def test_measure_takes_images_scores_and_architectures_of_ones_own(tmp_path):
    settings = Settings(
        **OWN, rungs=2, first_steps=2, steps=2, random_rungs=(), snip_rungs=(), path_steps=2, out=tmp_path
    )
    changes: dict[str, Any] = {"seeds": (0,), "distorted_rungs": (0,), "distortions": ("rotation",)}
    page = run(representation.STUDY, dataclasses.replace(settings, **changes), Console(quiet=True)).read_text()
    assert "Tiny" in page
    assert "least" in page


def test_command_of_representation_explains_itself_and_its_errors(monkeypatch, capsys):
    code, text = studies.said("representation", ["--help"], monkeypatch, capsys)
    assert code == 0
    for value in ("voc:<folder>", "resnet-large", "quadratic", "phase-scrambling", "PACKAGE.MODULE:FUNCTION"):
        assert value in text
    assert "--network" not in text
    code, text = studies.said("representation", ["--rungs", "1"], monkeypatch, capsys)
    assert (code, text) == (2, "error: rungs: expected a whole number of 2 or more, but got 1.\n")


def test_stands_does_not_depend_on_confidence():
    outputs, targets = jnp.array([[1.0, 2.0], [3.0, 1.0]]), jnp.array([1, 1])
    assert stands(outputs, targets).tolist() == stands(10 * outputs, targets).tolist() == [1.0, 0.0]
