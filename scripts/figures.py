"""The figures of the README: ``python scripts/figures.py`` computes those of studies anew, and writes its table.

What the README states lies in ``scripts/figures.json``, a row for each line of its table.  Rows of a study are computed
from the tables that its records gave, where its folder lies under ``results/``; what another command printed is put
down with ``python scripts/figures.py note WHAT MEASURED COMMAND [OF]``, where OF says of how many seeds and examples.
"""

import datetime
import html
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from jaxprune import files

ROOT = Path(__file__).parents[1]
KEPT, README = ROOT / "scripts" / "figures.json", ROOT / "README.md"
BEGIN, END = "<!-- figures: scripts/figures.py writes what follows -->\n", "<!-- end of figures -->\n"
HEAD = "| what | measured | of | by | on |\n|---|---|---|---|---|\n"

Row = dict[str, str]
"""Its ``key``; ``what`` was ``measured``, ``of`` how many seeds and examples, ``by`` which command, ``date``."""


def main(words: list[str]) -> int:
    """Brings rows and README up to date."""
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
    files.write(README, inserted(README.read_text(), rows))
    return 0


def put(rows: list[Row], row: Row) -> list[Row]:
    """Puts a row in the place of the one with its key, or at the end; where nothing changed it keeps its date."""
    if all(one["key"] != row["key"] for one in rows):
        return [*rows, row]
    said = ("what", "measured", "of", "by")
    same = [[one[name] for name in said] == [row[name] for name in said] for one in rows]
    return [row if one["key"] == row["key"] and not equal else one for one, equal in zip(rows, same, strict=True)]


def table(rows: list[Row]) -> str:
    """Writes the rows as the table of the README."""
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
