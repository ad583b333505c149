"""The figures of the documentation: ``python scripts/figures.py`` computes those of studies anew, and writes its table.

What ``docs/benchmarks.md`` states lies in ``scripts/figures.json``, a row for each line of its table.  Rows of a study
are computed from the tables that its records gave, where its folder lies under ``results/``; what another command
printed is put down with ``python scripts/figures.py note WHAT MEASURED COMMAND [OF]``, where OF says of how many seeds
and examples.  ``python scripts/figures.py picture`` draws the picture of the README from the transfer study.
"""

import datetime
import html
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from jaxprune import files

ROOT = Path(__file__).parents[1]
KEPT, PAGE = ROOT / "scripts" / "figures.json", ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "pictures" / "transfer.svg"
BEGIN, END = "<!-- figures: scripts/figures.py writes what follows -->\n", "<!-- end of figures -->\n"
HEAD = "| what | measured | of | by | on |\n|---|---|---|---|---|\n"

Row = dict[str, str]
"""Its ``key``; ``what`` was ``measured``, ``of`` how many seeds and examples, ``by`` which command, ``date``."""


def main(words: list[str]) -> int:
    """Brings rows and their page up to date."""
    rows: list[Row] = json.loads(KEPT.read_text())
    if words and words[0] == "note":
        if len(words) < 4:
            sys.stderr.write("usage: python scripts/figures.py note WHAT MEASURED COMMAND [OF]\n")
            return 2
        what, measured, by, *rest = words[1:]
        said = {"what": what, "measured": measured, "of": " ".join(rest) or "1 run", "by": by, "date": today()}
        rows = put(rows, {"key": what, **said})
    for name, read in STUDIES.items():
        folder = ROOT / "results" / name
        if (folder / "verdicts.csv").exists():
            for number, row in enumerate(read(folder), 1):
                rows = put(rows, {"key": f"{name} {number}", **row, "by": f"`{command(folder)}`", "date": today()})
    files.write(KEPT, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    files.write(PAGE, inserted(PAGE.read_text(), rows))
    if words == ["picture"]:
        picture(ROOT / "results" / "transfer", PICTURE)
    return 0


def put(rows: list[Row], row: Row) -> list[Row]:
    """Puts a row in the place of the one with its key, or at the end; where nothing changed it keeps its date."""
    if all(one["key"] != row["key"] for one in rows):
        return [*rows, row]
    said = ("what", "measured", "of", "by")
    same = [[one[name] for name in said] == [row[name] for name in said] for one in rows]
    return [row if one["key"] == row["key"] and not equal else one for one, equal in zip(rows, same, strict=True)]


def table(rows: list[Row]) -> str:
    """Writes the rows as a table."""
    lines = (f"| {row['what']} | {row['measured']} | {row['of']} | {row['by']} | {row['date']} |\n" for row in rows)
    return HEAD + "".join(lines)


def inserted(text: str, rows: list[Row]) -> str:
    """Puts the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def command(folder: Path) -> str:
    """Reads from the page of a study by which command it was made."""
    page = (folder / "index.html").read_text()
    return html.unescape(re.findall(r"<pre[^>]*>(python -m experiments\.[^<]*)</pre>", page)[-1])


def today() -> str:
    """The date."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


# ------------------------------------------------------------------------------------------- the picture of the README

SHOWN = {
    "logits/greedy+surgeon": "greedy in exact blocks + update (own outputs)",
    "logits/greedy+rounds": "... and all kept weights moved in rounds",
    "logits/greedy+adam": "... by Adam for as many gradients instead",
    "label/diagonal": "Hessian diagonal (labels)",
    "magnitude": "magnitude",
    "random": "random",
}


def picture(folder: Path, to: Path) -> None:
    """Draws what pruned networks keep on tasks that they were never shown.

    Raises:
      FileNotFoundError: the study was not done.
    """
    if not (folder / "accuracy.csv").exists():
        raise FileNotFoundError(
            f"{folder}: expected the tables of the transfer study. Make them: python -m experiments.transfer --seeds 0 "
            "1 2 3 4"
        )
    rows = pd.read_csv(folder / "accuracy.csv")
    rows = rows[(rows.stage == "pruned") & (rows["group"] == "transfer") & (rows["head"] == "frozen")]
    dense = rows[rows.method == "dense"].iloc[0]
    plt.rcParams.update({"svg.hashsalt": "jaxprune", "svg.fonttype": "path", "font.size": 9})
    figure, axes = plt.subplots(figsize=(8.4, 3.4), layout="constrained")
    axes.axhline(100 * dense.accuracy, color="0.4", linestyle="--", linewidth=1)
    axes.text(50.3, 100 * dense.accuracy + 1, "dense", color="0.4", va="bottom")
    for number, (method, words) in enumerate(SHOWN.items()):
        line = rows[rows.method == method].sort_values("sparsity")
        # Side by side, so that intervals can be told apart.
        x = 100 * line.sparsity + 0.4 * (number - (len(SHOWN) - 1) / 2)
        reach = 100 * np.stack([line.accuracy - line.low, line.high - line.accuracy])
        axes.errorbar(x, 100 * line.accuracy, reach, marker="osD^vx"[number], label=words, capsize=2, elinewidth=0.8)
    axes.set(xlabel="zeros among the prunable weights (%)", ylabel="right on 5-9, never shown (%)", ylim=(0, 108))
    axes.set_title("Pruned with images of 0-4 alone, not fine-tuned", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    to.parent.mkdir(exist_ok=True)
    figure.savefig(to, metadata={"Date": None}, facecolor="white")


# ------------------------------------------------------------------------------------------------- the rows of studies


def transfer(folder: Path) -> Iterator[Row]:
    """What the demo found."""
    tested = pd.read_csv(folder / "verdicts.csv", keep_default_na=False)
    accuracy = pd.read_csv(folder / "accuracy.csv")
    dense = accuracy[(accuracy.method == "dense") & (accuracy["head"] == "frozen") & (accuracy.stage == "pruned")]
    for group in ("source", "transfer"):
        one, held = dense[dense["group"] == group].iloc[0], tested[tested.claim == f"P1 {group}"]
        best = max(reach(held, method) for method in held.method.unique() if is_fair(method))
        yield {
            "what": f"{group}: accuracy of the dense network with frozen heads; up to which sparsity some method is "
            f"shown to keep it ({held.meaning.iloc[0]})",
            "measured": f"{percent(one.accuracy)} ({percent(one.low)} to {percent(one.high)}); {100 * best:.3g} %",
            "of": f"{one.seeds} seeds, n = {one.n}",
        }


def is_fair(method: str) -> bool:
    """Whether a method saw the source task alone, and is no control."""
    return method != "random" and not method.startswith("logits-of-all/")


def reach(claim: pd.DataFrame, method: str) -> float:
    """The sparsity up to which a claim holds without a gap; 0 where it does not hold at the lowest."""
    rows = claim[claim.method == method].sort_values("sparsity")
    held = rows.sparsity[(rows.verdict == "holds").cumprod().astype(bool)]
    return 0.0 if held.empty else float(held.max())


def landscape(folder: Path) -> Iterator[Row]:
    """In how many cases its claims hold."""
    yield counts(folder, "around pruned networks, cases in which a claim is shown to hold")


def patterns(folder: Path) -> Iterator[Row]:
    """In how many cases its claims hold."""
    yield counts(folder, "n:m against unstructured masks, cases in which a claim is shown to hold")


def joint(folder: Path) -> Iterator[Row]:
    """What the search by CKA keeps."""
    tested = pd.read_csv(folder / "verdicts.csv")
    one = tested[(tested.claim == "keeps") & (tested.chooser == "cka")].iloc[0]
    change, *ends = (f"{100 * end:+.1f}".replace("-", "−") for end in (one["mean"], one.low, one.high))
    yield {
        "what": f"a search by CKA, {percent(one.removed)} fewer operations: change of accuracy in points; whether it "
        f"is kept ({one.meaning})",
        "measured": f"{change} ({' to '.join(ends)}); {one.verdict}",
        "of": f"{one.seeds} seeds, n = {one.n}",
    }


def representation(folder: Path) -> Iterator[Row]:
    """How many sweet spots were found."""
    tested = pd.read_csv(folder / "verdicts.csv", keep_default_na=False)
    own = tested[tested.method != "random map"]
    found = own[own.verdict == "found"].against.value_counts()
    each = own.against.value_counts()
    yield {
        "what": f"sweet spots in {each.max()} comparisons: over the dense network; over the dense network trained "
        f"equally long (by chance {0.025 * each.max():.1f} each)",
        "measured": "; ".join(str(found.get(name, 0)) for name in ("dense", "equal training")),
        "of": of(own),
    }


def counts(folder: Path, what: str) -> Row:
    """Counts the cases in which each claim holds."""
    tested = pd.read_csv(folder / "verdicts.csv")
    held = tested.assign(holds=tested.verdict == "holds").groupby("claim", sort=False).holds.agg(["sum", "size"])
    return {
        "what": what,
        "measured": "; ".join(f"{name}: {one['sum']} of {one['size']}" for name, one in held.iterrows()),
        "of": of(tested),
    }


def of(tested: pd.DataFrame) -> str:
    """Says of how many seeds verdicts are, and of how many examples where there are more than one for each seed."""
    least, most, seeds = tested.n.min(), tested.n.max(), tested.seeds.max()
    count = f", n = {least}" if least == most else f", n = {least} to {most}"
    return f"{seeds} seeds{count if most > seeds else ', one number each'}"


def percent(share: Any) -> str:
    """Writes a share in percent."""
    return f"{100 * share:.1f} %"


STUDIES: dict[str, Callable[[Path], Iterator[Row]]] = {
    "transfer": transfer,
    "landscape": landscape,
    "joint": joint,
    "representation": representation,
    "patterns": patterns,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
