"""That figures of the documentation are those that were kept, and rows of studies say what their tables say."""

import importlib
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return importlib.import_module("figures")


def row(key: str, **more: str) -> dict[str, str]:
    return {"key": key, "what": key, "measured": "1", "of": "1 run", "by": "`x`", "date": "2026-01-01", **more}


def test_table_of_the_page_has_the_figures_that_were_kept(figures):
    text, rows = figures.PAGE.read_text(), json.loads(figures.KEPT.read_text())
    assert figures.inserted(text, rows) == text
    assert text.count(figures.table(rows)) == 1
    assert all(one["measured"] and one["of"] and one["by"] and one["date"] for one in rows)
    assert len({one["key"] for one in rows}) == len(rows)
    # Those of studies say of how many seeds they are.
    assert all("seed" in one["of"] for one in rows if one["by"].startswith("`python -m experiments."))


def test_put_replaces_the_row_of_its_key_and_keeps_the_date_of_what_did_not_change(figures):
    rows = [row("a"), row("b")]
    assert figures.put(rows, row("c")) == [*rows, row("c")]
    assert figures.put(rows, row("b", date="2026-02-02")) == rows
    newer = row("b", measured="2", date="2026-02-02")
    assert figures.put(rows, newer) == [row("a"), newer]


def test_inserted_changes_what_is_between_the_marks_alone(figures):
    text = f"before\n{figures.BEGIN}old\n{figures.END}after\n"
    found = figures.inserted(text, [row("a")])
    line = "| a | 1 | 1 run | `x` | 2026-01-01 |\n"
    assert found == f"before\n{figures.BEGIN}\n{figures.HEAD}{line}\n{figures.END}after\n"
    assert figures.inserted(found, [row("a")]) == found


def test_reach_ends_at_the_first_gap(figures):
    cells = [("x", 0.9, "holds"), ("x", 0.1, "holds"), ("x", 0.5, "undecided"), ("y", 0.1, "does not hold")]
    claim = pd.DataFrame(cells, columns=["method", "sparsity", "verdict"])
    assert [figures.reach(claim, method) for method in "xy"] == [0.1, 0.0]


def test_transfer_reads_the_reach_of_the_best_score_and_the_dense_network(figures, tmp_path):
    cells = [("magnitude", 0.5, "holds"), ("magnitude", 0.9, "undecided"), ("random", 0.9, "holds")]
    tested = pd.DataFrame(cells, columns=["method", "sparsity", "verdict"]).assign(meaning="kept to 5 points")
    groups = ("source", "transfer")
    pd.concat([tested.assign(claim=f"P1 {one}") for one in groups]).to_csv(tmp_path / "verdicts.csv", index=False)
    dense = {"method": "dense", "stage": "pruned", "head": "frozen", "low": 0.98, "high": 1.0, "n": 600, "seeds": 3}
    rows = [{**dense, "group": one, "accuracy": 0.99 - 0.1 * place} for place, one in enumerate(groups)]
    pd.DataFrame([*rows, {**rows[0], "head": "refitted"}]).to_csv(tmp_path / "accuracy.csv", index=False)
    source, transfer = figures.transfer(tmp_path)
    assert source["measured"] == "99.0 % (98.0 % to 100.0 %); 50 %"
    assert (transfer["measured"], transfer["of"]) == ("89.0 % (98.0 % to 100.0 %); 50 %", "3 seeds, n = 600")
    assert "source: " in source["what"]


def test_representation_counts_sweet_spots_of_methods_and_not_of_random_orders(figures, tmp_path):
    cells = [("dense", "cam", "found"), ("dense", "random map", "found"), ("equal training", "cam", "undecided")]
    frame = pd.DataFrame(cells, columns=["against", "method", "verdict"]).assign(seeds=3, n=96)
    frame.to_csv(tmp_path / "verdicts.csv", index=False)
    (row,) = figures.representation(tmp_path)
    assert (row["measured"], row["of"]) == ("1; 0", "3 seeds, n = 96")


def test_command_is_read_off_the_page(figures, tmp_path):
    (tmp_path / "index.html").write_text('<pre tabindex="0">python -m experiments.joint --out &#x27;a b&#x27;</pre>')
    assert figures.command(tmp_path) == "python -m experiments.joint --out 'a b'"


def test_counts_and_joint_read_verdicts_as_they_are_written(figures, tmp_path):
    rows = [
        {"claim": "keeps", "chooser": "cka", "mean": -0.01, "low": -0.03, "high": 0.01, "verdict": "undecided"},
        {"claim": "keeps", "chooser": "random", "mean": 0.0, "low": -0.005, "high": 0.01, "verdict": "holds"},
    ]
    pd.DataFrame(rows).assign(n=900, seeds=3, removed=0.8, meaning="within 1 point").to_csv(tmp_path / "verdicts.csv")
    counted = {"what": "x", "measured": "keeps: 1 of 2", "of": "3 seeds, n = 900"}
    assert figures.counts(tmp_path, "x") == counted
    (found,) = figures.joint(tmp_path)
    assert found["measured"] == "−1.0 (−3.0 to +1.0); undecided"
    assert "within 1 point" in found["what"]
    assert found["of"] == "3 seeds, n = 900"


def test_main_notes_what_another_command_printed(figures, tmp_path, monkeypatch):
    kept, readme = tmp_path / "figures.json", tmp_path / "page.md"
    kept.write_text(json.dumps([row("a")]))
    readme.write_text(f"{figures.BEGIN}{figures.END}")
    for name, value in {"KEPT": kept, "PAGE": readme, "ROOT": tmp_path}.items():
        monkeypatch.setattr(figures, name, value)
    assert figures.main(["note", "b", "2 s", "`time x`", "3", "runs"]) == 0
    assert "| b | 2 s | 3 runs | `time x` | 20" in readme.read_text()
    assert figures.main(["note", "b"]) == 2
    assert [one["key"] for one in json.loads(kept.read_text())] == ["a", "b"]
