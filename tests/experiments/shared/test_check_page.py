"""That a check of pages sees what is wrong with one."""

import pytest

from experiments.shared import check_page
from experiments.shared.check_page import check, contrast, main, read
from jaxprune.report import Cell, Page, figure


def made() -> str:
    page = Page("Title", "Two words.")
    with figure(6.0, 3.0) as drawn:
        drawn.subplots().set_xlabel("share")
    page.drawing(drawn, "A caption of five words.")
    page.section("Section")
    page.text("Some text.")
    page.table("Table", ["", "one"], [["row", Cell("5", "good", "4 to 6")], ["other", Cell("3", "unsure")]])
    page.table("Folded", ["", "one"], [["row", Cell("5", "bad", "4 to 6")]], folded=True)
    page.code("python -m this")
    return page.html()


def faults(text: str) -> set[str]:
    return {name for name, (_, fault) in check(text).items() if fault}


def test_check_finds_nothing_wrong_with_our_pages():
    assert not faults(made())
    counts = {name: count for name, (count, _) in check(made()).items()}
    assert counts["words of the summary"] == 2
    # The heading, the summary, the caption, the section and its text; the hint that a figure scrolls.
    assert counts["words of running text, captions included"] == 1 + 2 + 5 + 1 + 2 + 3


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('<h2 id="section-1-section">', '<h2 id="table-1">', "duplicate ids"),
        ('aria-labelledby="figure-1" style', 'aria-labelledby="nowhere" style', "images without text"),
        ("<h2 ", '<img src="x.png"><h2 ', "images without text"),
        ('aria-labelledby="table-2">', ">", "tables without a name"),
        ('<th scope="row">other', "<th>other", "th without scope"),
        ("<p>Some text.", '<p title="0.5 to 0.7">Some text.', "numbers that only hovering shows"),
        ("<p>Some text.", '<p><a href="#nowhere">Some</a> text.', "links to nowhere"),
        ("Two words.", "word " * 121, "words of the summary"),
        ("Two words.", "", "words of the summary"),
        ("--unsure-ink: #6a5610", "--unsure-ink: #b0a060", "texts below 4.5 of contrast, light"),
        ("--unsure-ink: #ecdca0", "--unsure-ink: #6a5610", "texts below 4.5 of contrast, dark"),
        ("--figure: #f3efe5", "--figure: #303030", "texts below 4.5 of contrast, dark"),
        ("--paper: #fbf9f4", "--paper: #808080", "texts below 4.5 of contrast, light"),
    ],
)
def test_check_finds_what_is_wrong(old, new, fault):
    text = made()
    assert old in text
    assert fault in faults(text.replace(old, new))


def test_check_takes_a_title_that_is_shown_too_for_no_fault():
    assert not faults(made().replace("<p>Some text.", '<p title="5 of them">Some 5 text.'))


def test_contrast_is_that_of_an_element_on_what_it_stands_on():
    style = (
        "<style>body { color: #777777; background: #ffffff; } td.good { background: #777777; } p b { color: #000000; }"
    )
    page = read(f"{style}</style><body><p>low <b>fine</b></p><table><td class='good'>none</td></table></body>")
    # The ratio of #777777 on white is 4.48: just below the level.
    assert contrast(page, "light") == ["'low' (#777777 on #ffffff: 4.5)", "'none' (#777777 on #777777: 1.0)"]


def test_main_prints_counts_and_says_whether_something_is_wrong(tmp_path, capsys):
    good, bad = tmp_path / "good.html", tmp_path / "bad.html"
    good.write_text(made())
    bad.write_text(made().replace('<th scope="row">other', "<th>other"))
    assert main([str(good)]) == 0
    assert "    0 th without scope\n" in capsys.readouterr().out
    assert main([str(good), str(bad)]) == 1
    assert "    1 th without scope: other\n" in capsys.readouterr().out
    assert main([]) == 2
    assert check_page.SUMMARY == 120
