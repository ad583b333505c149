"""Pages: what they hold, and that everyone can read them."""

import re

import numpy as np

from experiments.shared.check_page import read
from jaxprune.report import Cell, Page, figure


def drawn(text="x"):
    with figure(6.0, 3.0) as made:
        axis = made.subplots()
        axis.plot([0, 1], [0, 1], label=text)
        for place in (0, 4):  # equal pictures have equal ids
            axis.imshow(np.eye(3), extent=(place, place + 3, 0, 3))
        axis.set_xlabel(text)
        made.legend()
    return made


def test_page_lists_its_sections_before_the_first_and_after_what_answers():
    page = Page("Title", "Summary.")
    page.text("First.")
    for name in ("One & two", "Table 1", "Table 1"):
        page.section(name)
    text = page.html()
    assert text.index("First.") < text.index("<nav") < text.index("<h2")
    targets = re.findall(r'<a href="#([^"]+)">', text)
    assert targets == re.findall(r'<h2 id="([^"]+)"', text)
    assert len(set(targets)) == 3
    assert "table-1" not in targets  # that is a table's
    assert "One &amp; two" in text


def test_page_of_few_sections_has_no_list():
    page = Page("Title", "Summary.")
    page.section("Only")
    assert "<nav" not in page.html()


def test_page_puts_notices_below_the_summary_and_leaves_out_empty_ones():
    page = Page("Title", "Summary.")
    page.text("Later.")
    page.notice("Know this.")
    page.notice("")
    text = page.html()
    assert text.index("Summary.") < text.index("Know this.") < text.index("Later.")
    assert text.count('class="notice"') == 1


def test_page_escapes_words_and_links_arxiv_numbers():
    page = Page("A < B", "See arXiv 2509.24066 & <others>, of 5 %.")
    text = page.html()
    assert '<a href="https://arxiv.org/abs/2509.24066">arXiv 2509.24066</a> &amp; &lt;others&gt;, of 5\u00a0%.' in text
    assert "<title>A &lt; B</title>" in text


def test_page_embeds_figures_whose_ids_are_their_own():
    page = Page("Title", "Summary.")
    for _ in range(2):
        page.drawing(drawn(), "What it shows.")
    found = list(read(page.html()).all())
    ids = [one.attributes["id"] for one in found if "id" in one.attributes]
    assert len(ids) > 20
    assert len(set(ids)) == len(ids)
    text = page.html()
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert used  # markers and clipping paths
    assert used <= set(ids)
    names = {one.attributes["id"]: one.text() for one in found if one.tag == "figcaption"}
    figures = [one for one in found if one.tag == "svg"]
    assert [names[one.attributes["aria-labelledby"]] for one in figures] == ["What it shows."] * 2
    assert all(one.attributes["role"] == "img" for one in figures)
    assert "metadata" not in text


def test_page_has_the_same_bytes_again():
    pages = []
    for _ in range(2):
        page = Page("Title", "Summary.")
        page.drawing(drawn(), "Caption.")
        pages.append(page.html())
    assert pages[0] == pages[1]


def test_table_of_a_page_names_its_rows_columns_and_itself():
    page = Page("Title", "Summary.")
    page.table("Shown", ["", "one"], [["row", Cell("5", "good", "4 to 6")]])
    page.table("Folded", ["name", "one"], [[Cell("row", note="more"), "6"]], folded=True)
    text = page.html()
    assert '<th scope="row">row</th><td class="good">5<small>4 to 6</small></td>' in text
    assert '<th scope="row">row<small>more</small></th><td>6</td>' in text
    assert '<thead><tr><td></td><th scope="col">one</th></tr></thead>' in text
    assert re.search(r'<caption id="(table-1)"><span>Shown</span></caption>', text)
    assert '<details><summary id="table-2">Folded</summary>' in text
    assert '<table aria-labelledby="table-2">' in text
    assert "title=" not in text


def test_table_of_a_page_says_that_it_scrolls_where_it_is_wide():
    said = []
    for columns in (2, 6, 30):
        page = Page("Title", "Summary.")
        page.table("Caption", ["", *["accuracy"] * columns], [["row", *["0.5"] * columns]])
        said.append(re.findall(r'class="(hint[^"]*)"', page.html()))
    assert said == [[], ["hint narrow"], ["hint"]]
