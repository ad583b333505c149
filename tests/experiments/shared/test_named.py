"""Networks, scores and data of a user's own, in the studies that take them."""

import dataclasses
import functools
import importlib
import io
import linecache
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxprune as jp
from experiments import transfer
from experiments.shared import images, named, options, pretrained
from experiments.shared.study import run
from jaxprune.store import Store
from tests.experiments import small, studies

OWN = {
    "network": "tests.experiments.small:network",
    "data": "tests.experiments.small:images",
    "methods": ("tests.experiments.small:smallest_first", "random"),
}
TINY = {"sparsities": (0.5,), "rungs": (), "seeds": (0,), "shifts": (), "penalties": (1.0,)}
TINY |= {"finetune_steps": 1, "batch_size": 16}


@pytest.fixture(autouse=True)
def float32(float64):
    """Studies run as their users run them."""
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("own")
    with jax.enable_x64(False):
        run(transfer.STUDY, transfer.Settings(**OWN, **TINY, out=out), Console(file=io.StringIO()))
    return out


def kept(folder, score: str) -> str:
    """The hash of the mask of a score."""
    inputs = transfer.open_study(transfer.Settings(**OWN, **TINY, out=folder))
    store = Store(folder, "transfer", version=transfer.STUDY.version, data=inputs.fingerprint)
    (one,) = [one for one in transfer.plan(inputs.settings, inputs) if named.label(one.score) == score]
    return store.read(one)["metrics"]["mask"]


def asks(network, batches, loss):
    return loss, network


def makes(loss):
    return lambda network, batches: (loss, network)


def test_score_gives_the_loss_to_a_score_that_asks_for_it_and_to_what_makes_one_of_it():
    given = SimpleNamespace(loss="the loss")
    for own in (asks, makes):
        options.check_score("methods", own)
        assert options.reads_loss("methods", own)
        assert options.score("methods", own, given)("the network", []) == ("the loss", "the network")
    for wrong in (lambda network: 0, lambda loss, damping: 0):
        with pytest.raises(ValueError, match=r"methods: expected a score, \(network, batches\) -> scores.* takes \("):
            options.check_score("methods", wrong)


def test_run_takes_a_network_a_score_and_data_of_ones_own(folder):
    text = (folder / "index.html").read_text()
    assert "tests.experiments.small:network" in text
    assert "smallest_first" in text
    # The score is what it says: the largest weights go.
    params = small.network().params["conv"]["kernel"]
    mask = jp.masks.unstructured(0.5)({"k": -np.abs(params)}, {"k": True})["k"]
    whole = {"conv": {"kernel": np.asarray(mask)}, "head": {"kernel": np.ones((4, 10), bool)}}
    assert kept(folder, "smallest_first") == jp.records.fingerprint(*jax.tree.leaves(whole))


def test_run_takes_the_functions_themselves_for_the_same_runs(folder):
    settings = transfer.Settings(
        network=small.network,
        data=small.images,
        methods=(small.smallest_first, "random"),
        **TINY,
        out=folder,
        dry_run=True,
    )
    text = io.StringIO()
    run(transfer.STUDY, settings, Console(file=text))
    assert text.getvalue().splitlines()[-1] == "runs 3, done 3, to do 0"


def test_open_inputs_tells_networks_apart_by_weights_and_program(tmp_path):
    def fingerprint(network):
        return transfer.open_study(
            transfer.Settings(network=network, data=small.images, **TINY, out=tmp_path)
        ).fingerprint

    def doubled():
        return jax.tree.map(lambda leaf: 2 * leaf, small.network())

    def other():
        net = small.network()
        return jp.Network(lambda params, state, batch: 2 * net.apply(params, state, batch), net.params)

    found = [fingerprint(one) for one in (small.network, doubled, other, small.network)]
    assert found[0] == found[3]
    assert len(set(found)) == 3


def test_open_inputs_tells_apart_what_a_network_closes_over_and_its_preprocess(tmp_path):
    def fingerprint(network, data=small.images):
        return transfer.open_study(transfer.Settings(network=network, data=data, **TINY, out=tmp_path)).fingerprint

    def shifted(by):
        net, constant = small.network(), np.full(10, by, np.float32)
        return jp.Network(lambda params, state, images: net.apply(params, state, images) + constant, net.params)

    def coloured():
        grey = jp.data.digits()
        pixels = np.repeat((255 * grey.pixels[:600]).astype(np.uint8), 3, axis=-1)
        return jp.data.Arrays("coloured", pixels, grey.labels[:600], grey.classes)

    def preprocessed(**changes):
        apply = small.network().apply
        rule = jp.types.Preprocess(**{"mean": (0.0,) * 3, "std": (1.0,) * 3} | changes)
        grey = lambda params, state, images: apply(params, state, images.mean(-1, keepdims=True))  # noqa: E731
        return jp.Network(grey, small.network().params), rule

    closed = [fingerprint(shifted(by)) for by in (1.0, 2.0, 1.0)]
    assert closed[0] == closed[2] != closed[1]
    rules = [{}, {"mean": (0.5,) * 3}, {"std": (0.5,) * 3}, {"resize": 8}]
    assert len({fingerprint(preprocessed(**rule), coloured()) for rule in rules}) == len(rules)


def test_open_inputs_tells_tasks_and_names_of_data_apart(tmp_path):
    def fingerprint(name="few", first=(0, 1)):
        tasks = (jp.data.Task("one", first), jp.data.Task("other", (2, 3)))
        source = dataclasses.replace(small.images(), name=name)
        settings = transfer.Settings(data=images.Sources(source, None, tasks), **TINY, out=tmp_path)
        return transfer.open_study(settings).fingerprint

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(name="many"), fingerprint(first=(4, 1)), fingerprint(first=(1, 0))}) == 4


def test_open_study_refuses_to_recalibrate_what_has_no_statistics(tmp_path):
    settings = transfer.Settings(network=small.network, data=small.images, **TINY, recalibrate=True, out=tmp_path)
    with pytest.raises(ValueError, match="recalibrate: expected a network with a train_apply"):
        transfer.open_study(settings)


def test_own_network_with_a_preprocess_gets_bytes_of_its_size(tmp_path):
    found = pretrained.own(small.network_with_a_preprocess)
    assert found.preprocess.resize == 8
    with pytest.raises(ValueError, match="data: expected images in colours, but those of digits have the shape"):
        pretrained.demand_fitting(found, jp.data.digits())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "tests.experiments.small:network_without_tags"}, r"to tag 'features'.*checkpoint_name\(x, \"feat"),
        (
            {"network": "tests.experiments.small:not_a_network"},
            r"network: expected .*:not_a_network to return a jp.Net",
        ),
        (
            {"network": "tests.experiments.small:nothing"},
            "network: 'tests.experiments.small' has no function 'nothing'",
        ),
        ({"network": "nowhere.at_all:network"}, "network: there is no module 'nowhere.at_all'. Write package.module:f"),
        ({"network": "network"}, "network: expected a function, but got 'network'. Write package.module:function"),
        ({**OWN, "weights": "file.pth"}, "weights, architecture: expected none beside network"),
        ({"methods": ("tests.experiments.small:nothing",)}, "methods: .* has no function 'nothing'"),
        ({"data": "tests.experiments.small:not_a_network"}, "data: expected .* to return a jp.data.Source"),
    ],
)
def test_open_study_explains_what_is_wrong_with_functions(tmp_path, monkeypatch, settings, message):
    studies.refused("transfer", tmp_path, monkeypatch, message, **TINY | settings)


def test_find_lets_faults_inside_of_a_module_through(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        named.find("network", "broken_module:network")
    sys.modules.pop("broken_module", None)


def scaled(factor):
    """A score in a closure."""
    return lambda network, batches: jax.tree.map(lambda leaf: factor * np.abs(leaf), network.params)


@dataclasses.dataclass(frozen=True)
class Scaled:
    factor: float

    def __call__(self, network, batches):
        return scaled(self.factor)(network, batches)


def decorated(factor):
    """A decorator that changes what a score gives."""

    def decorate(score):
        @functools.wraps(score)
        def changed(network, batches, loss):
            return jax.tree.map(lambda leaf: factor * leaf, score(network, batches, loss))

        return changed

    return decorate


class Opaque:
    def __call__(self, network, batches):
        return network.params


def test_versioned_tells_functions_apart_by_what_they_hold():
    same = [
        lambda: scaled(1.0),
        lambda: scaled(-1.0),
        lambda: Scaled(1.0),
        lambda: Scaled(-1.0),
        lambda: functools.partial(small.smallest_first, loss=jp.losses.cross_entropy),
        lambda: functools.partial(small.smallest_first, loss=jp.losses.squared_error),
        lambda: jp.scores.snip(jp.losses.cross_entropy),
        lambda: jp.scores.snip(jp.losses.squared_error),
        lambda: jp.scores.random(jax.random.key(0)),
        lambda: jp.scores.random(jax.random.key(1)),
        lambda: small.smallest_first,
        lambda: decorated(1.0)(small.smallest_first),
        lambda: decorated(-1.0)(small.smallest_first),
    ]
    names = [named.versioned(make()) for make in same]
    assert names == [named.versioned(make()) for make in same]
    assert len(set(names)) == len(names)
    assert named.versioned("tests.experiments.small:smallest_first") == named.versioned(small.smallest_first)
    assert named.versioned(names[0]) == names[0]
    with pytest.raises(ValueError, match=r"is of another version; now it is .*:smallest_first@"):
        named.versioned("tests.experiments.small:smallest_first@00000000")
    assert named.find("scores", names[1])(small.network(), [])["head"]["kernel"].max() <= 0
    assert named.versioned("magnitude") == "magnitude"
    assert named.label(named.versioned(small.smallest_first)) == "smallest_first"
    with pytest.raises(ValueError, match=r"function: what a .*:Opaque holds cannot be told .* Write a function"):
        named.versioned(Opaque())


def test_versioned_changes_with_helpers_and_constants_of_the_module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for constant in (1.0, -1.0, 1.0):
        text = f"K = {constant}\ndef helper(x):\n    return K * x\ndef score(network, batches):\n    return helper(1)\n"
        (tmp_path / "changing_scores.py").write_text(text)
        sys.modules.pop("changing_scores", None)
        linecache.clearcache()
        importlib.invalidate_caches()
        found.append(named.versioned("changing_scores:score"))
    sys.modules.pop("changing_scores")
    assert found[0] == found[2] != found[1]


def test_run_keeps_the_records_of_other_scores_when_one_is_added(folder):
    settings = transfer.Settings(**OWN | {"methods": ("random", scaled(1.0), scaled(-1.0))}, **TINY, out=folder)
    text = io.StringIO()
    run(transfer.STUDY, dataclasses.replace(settings, dry_run=True), Console(file=text))
    # The dense network and the random mask are there; the two closures are two other runs.
    assert text.getvalue().splitlines()[-1] == "runs 4, done 2, to do 2"


def test_call_says_whose_fault_it_is():
    def broken():
        raise RuntimeError("no network today")

    with pytest.raises(ValueError, match=r"network: .*broken failed: RuntimeError: no network today"):
        named.call("network", broken)
    with pytest.raises(ValueError, match=r"network: .*:network_without_tags failed: TypeError"):
        named.call("network", functools.partial(small.network_without_tags, 1))


def test_own_takes_a_network_and_data_themselves(tmp_path):
    settings = transfer.Settings(
        **TINY, network=small.network(), data=small.images(), methods=("random",), out=tmp_path
    )
    inputs = transfer.open_study(settings)
    assert inputs.settings.data == "few digits"
    assert (
        inputs.fingerprint
        == transfer.open_study(dataclasses.replace(settings, network=small.network, data=small.images)).fingerprint
    )


def test_load_takes_sources_with_tasks_of_ones_own():
    tasks = (jp.data.Task("even", (0, 2)), jp.data.Task("odd", (1, 3)))
    found = images.load(lambda: images.Sources(jp.data.digits(), None, tasks), None, 8)
    assert found.tasks == tasks
    assert [task.name for task in images.load(small.images, None, 8).tasks] == ["first half", "second half"]
