"""Studies under several processes of one JAX program: what all agree on, what fails, who ends, and what they find."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.shared import hosts, together
from jaxprune import processes
from tests import haste, many
from tests.experiments import small

ROOT = Path(__file__).parents[3]

SMALL = """
import json, os, pathlib, signal, time
from rich.console import Console
import jax.numpy as jnp
import jaxprune as jp
from experiments.shared import study
from jaxprune.store import Store
from tests.experiments import small

index, here = processes.index(), pathlib.Path(sys.argv[0]).parent
breaking = ""

def everywhere():
    placement = jp.mesh.Placement(jp.mesh.make())
    return float(jax.jit(jnp.sum)(placement.whole(jnp.ones(8))))

def measure(settings, run):
    if (run.seed, run.number) == (1, 2):
        if breaking == "one":
            if index == 1:
                raise FloatingPointError("only [here]")
            processes.first(lambda: 1)  # which the other one leaves out
            return small.measure(settings, run)
        if breaking == "differ":
            return {"value": 1.0, "parts": {"half": 0.5 + index}}
        if breaking == "told":
            if index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            everywhere()  # where process 0 waits for the one that has gone
    return {**small.measure(settings, run), "everywhere": everywhere()}

def prepare(settings, inputs, seed):
    if breaking == "prepare" and seed == 1 and index == 1:
        raise FloatingPointError("nothing to prepare")
    return small.prepare(settings, inputs, seed)

made = small.STUDY._replace(measure=measure, prepare=prepare)

def done(name, **more):
    small.prepared.clear()
    try:
        path = study.run(made, small.Settings(seeds=(0, 1), out=here / name, **more), Console(quiet=True))
        found = [str(path.relative_to(here)), small.prepared]
    except (ValueError, ModuleNotFoundError) as error:
        found = f"{type(error).__name__}: {error}"
    print("RESULT", name, json.dumps(found), flush=True)

done("whole")
done("whole")
done("apart" + str(index))
done("scale", scale=1.0 + index)
done("bad", scale=1.0 - index)
done("engine", engine="submitit")
for breaking in ("one", "differ", "prepare"):
    done(breaking)
breaking = "told"
sys.argv = ["study", "--seeds", "0", "1", "--out", str(here / "told")]
study.command(made, small.Settings, small.__doc__)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Two processes that do the small study, whole and broken; in the end one of them is told to stop."""
    folder = tmp_path_factory.mktemp("small")
    outputs = many.run(folder, SMALL, devices=1, code=143)
    return folder, [
        [(name, json.loads(value)) for name, value in re.findall(r"RESULT (\w+) (.*)", one)] for one in outputs
    ]


def failures(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((folder / "failed").iterdir())]


def test_run_of_two_processes_does_every_run_once_and_returns_the_page_on_both(ran):
    folder, found = ran
    assert (
        found[0][:2] == found[1][:2] == [("whole", ["whole/index.html", [0, 1]]), ("whole", ["whole/index.html", []])]
    )
    records = [json.loads(path.read_text())["metrics"] for path in (folder / "whole" / "records").iterdir()]
    assert sorted(one["value"] for one in records) == [1.0, 2.0, 2.0, 3.0, 3.0, 4.0]
    assert not list((folder / "whole" / "claims").iterdir())


@pytest.mark.parametrize(
    ("place", "name", "words"),
    [
        (
            3,
            "scale",
            "ValueError: scale: expected the same on all 2 processes, but process 0 has 1.0; process 1 has 2.0",
        ),
        (5, "engine", "ValueError: .*engine: expected none where 2 processes of one program do the study"),
    ],
)
def test_opened_refuses_on_both_processes_what_differs_or_cannot_be(ran, place, name, words):
    folder, found = ran
    for one in found:
        assert one[place][0] == name
        assert re.match(words, one[place][1])
    assert not list((folder / name / "records").glob("*"))


def test_opened_names_the_folder_and_the_process_that_found_a_bad_value(ran):
    _, (first, second) = ran
    assert first[2][0] == "apart0"
    assert second[2][0] == "apart1"
    for one in (first, second):
        assert re.match(r"ValueError: out: expected the same on all 2 processes, but process 0 has .*apart0", one[2][1])
    assert first[4][1] == "ValueError: process 1: scale: expected a number above 0, but got 0.0."
    assert second[4][1] == "ValueError: scale: expected a number above 0, but got 0.0."


def test_leader_notes_what_fails_on_the_other_process_alone_and_goes_on(ran):
    folder, _ = ran
    (failure,) = failures(folder / "one")
    assert failure["error"] == "RuntimeError: process 1 failed with FloatingPointError: only [here]"
    assert 'raise FloatingPointError("only [here]")' in failure["traceback"]
    assert len(list((folder / "one" / "records").iterdir())) == 5
    assert [one["error"] for one in failures(folder / "prepare")] == [
        "RuntimeError: process 1 failed with FloatingPointError: nothing to prepare"
    ] * 3
    assert len(list((folder / "prepare" / "records").iterdir())) == 3


def test_leader_prepares_anew_on_all_processes_what_a_failure_may_have_left_in_disorder(ran):
    for one in ran[1]:
        assert dict(one)["one"][1] == [0, 1, 1]


def test_leader_fails_a_run_whose_numbers_differ_and_names_them(ran):
    (failure,) = failures(ran[0] / "differ")
    assert re.match(
        "ValueError: metrics: expected the same on all 2 processes, but they differ in parts", failure["error"]
    )


def test_command_ends_both_processes_where_one_gets_sigterm_and_keeps_what_is_done(ran):
    folder = ran[0]
    told = [(folder / f"errors-{place}").read_text() for place in (0, 1)]
    assert f"ended with process 1: 4 of 6 runs are kept in {folder / 'told'}; the same command" in told[0]
    assert "stopped by SIGTERM: What is done is kept in" in told[1]
    assert not (folder / "told" / "index.html").exists()
    assert len(list((folder / "told" / "records").iterdir())) == 4
    assert not [path for path in (folder / "told").rglob("*") if path.name.startswith(".tmp-")]
    assert not list((folder / "told" / "failed").iterdir())


def test_digests_tell_whatever_a_record_tells_and_refuse_the_rest():
    values = np.arange(5000.0)
    other = np.where(values == 2500, 0, values)
    found = [together._digests({"x": one.tolist(), "provenance": object()}) for one in (values, values, other)]
    assert found[0] == found[1] != found[2]
    assert found[0].keys() == {"x"}
    for bad in (values, {1: 2, "a": 3}, float("nan")):
        with pytest.raises((TypeError, ValueError), match=r"metrics\[.x.\]: expected"):
            together._digests({"x": bad})


def test_everywhere_returns_what_no_record_can_have_as_the_failure_of_the_run():
    _, error = together._everywhere("measure", lambda: {"x": {1: 2, "a": 3}})
    assert isinstance(error, TypeError)
    assert "metrics['x']: expected text" in str(error)


def test_demand_possible_wants_a_batch_that_all_devices_share(monkeypatch, tmp_path):
    class Batched(small.Settings):
        batch_size = 12

    together.demand_possible(Batched(out=tmp_path))
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(
        ValueError, match="batch_size: expected a multiple of 8, the devices of all 2 processes, but got"
    ):
        together.demand_possible(Batched(out=tmp_path))


def test_batches_of_one_process_lie_on_the_host():
    assert hosts.placement() is None
    (batch,) = hosts.batches({"image": np.ones((3, 2)), "label": np.arange(3)}, 8)
    assert not isinstance(batch["image"], jax.Array)


# -------------------------------------------------------------------------------------------------- a study of networks

TRANSFER = """
import pathlib, signal, os, sys
import jax, numpy as np
from rich.console import Console
import jaxprune as jp
from experiments import transfer
from experiments.shared.study import run
from jaxprune import processes

jax.config.update("jax_enable_x64", False)
here, name = pathlib.Path(sys.argv[0]).parent, NAME
settings = transfer.Settings(
    network="tests.experiments.small:network", data="tests.experiments.small:images", seeds=(0,), shifts=(),
    methods=("label/snip",), sparsities=(0.5,), finetune_steps=3, finetune_rate=2e-3, penalties=(1.0,), batch_size=64,
    out=here / name,
)
fit, calls, worlds = jp.train.fit, [], []

def dying(*arguments, **named):
    calls.append(1)
    if name == "killed" and len(calls) == DEADLY and processes.index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return fit(*arguments, **named)

def prepare(*arguments):
    worlds.append(transfer.prepare_seed(*arguments))
    return worlds[-1]

jp.train.fit = dying
run(transfer.STUDY._replace(prepare=prepare), settings, Console(quiet=True))
if worlds and processes.is_first():
    world = worlds[0]
    (scores, _), = world.scored.values()
    mask = jp.masks.unstructured(0.5)(scores, world.prunable)
    found = {"scores": scores["conv"]["kernel"], "mask": mask["conv"]["kernel"]}
    np.savez(here / name, **{key: np.asarray(one) for key, one in found.items()})
"""


@pytest.fixture(scope="module")
def transferred(tmp_path_factory):
    """The study by one process; by two; and by two of which one is killed in the second training, and again."""
    folder = tmp_path_factory.mktemp("transfer")
    alone = folder / "alone.py"
    alone.write_text(TRANSFER.replace("NAME", "'alone'").replace("DEADLY", "0"))
    environment = {**os.environ, "XLA_FLAGS": haste.FLAGS, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, str(alone)], env=environment, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    for name, deadly in (("whole", 0), ("killed", 2), ("killed", 0)):
        script = TRANSFER.replace("NAME", repr(name)).replace("DEADLY", str(deadly))
        many.run(folder, script, devices=1, lost=1 if deadly else None)
        if deadly:
            # The dense network, and the rung below, which is not trained.
            assert len(list((folder / name / "records").iterdir())) == 2
    return folder


def contents(folder: Path) -> tuple[dict, dict]:
    """(the records but for where and when, the tables) of a study."""
    records = {path.name: json.loads(path.read_text()) for path in (folder / "records").iterdir()}
    decided = {name: {**one, "provenance": None, "sha256": None} for name, one in records.items()}
    return decided, {path.name: path.read_bytes() for path in folder.glob("*.csv")}


def test_run_of_two_processes_killed_and_restarted_gives_the_same_bytes(transferred):
    records, tables = contents(transferred / "whole")
    assert len(records) == 3
    assert len(tables) > 2
    assert contents(transferred / "killed") == (records, tables)
    assert not list((transferred / "killed" / "claims").iterdir())


def test_run_of_two_processes_finds_the_scores_the_mask_and_the_accuracies_of_one(transferred):
    alone, both = (np.load(transferred / f"{name}.npz") for name in ("alone", "whole"))
    scores = alone["scores"]
    np.testing.assert_allclose(both["scores"], scores, rtol=1e-5, atol=1e-5 * scores.max())
    threshold = np.median(scores)
    tied = np.abs(scores - threshold) <= 1e-5 * scores.max()
    assert tied.sum() <= 2
    np.testing.assert_array_equal(alone["mask"][~tied], both["mask"][~tied])
    found = [contents(transferred / name)[0] for name in ("alone", "whole")]
    assert found[0].keys() == found[1].keys()
    tested = {name: one for name, one in found[0].items() if one["config"]["@type"] == "Run"}
    assert len(tested) == 2
    for name, one in tested.items():
        for stage in ("pruned", "finetuned"):
            for task, result in one["metrics"][stage]["frozen"].items():
                other = found[1][name]["metrics"][stage]["frozen"][task]["accuracy"]
                assert abs(other - result["accuracy"]) <= 1.96 * max(result["standard_error"], 1 / result["n"])
