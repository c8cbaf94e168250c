"""The guard on numbers holds for every page, and bites on planted errors."""

import claims
import nbformat
import pytest
from claims import Evidence, in_order, proofs_of, unproven, unproven_in, unproven_page, worked_out
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_notebooks import BOOK, NOTEBOOKS, ROOT
from written import Sentence, calculations, numbers, sentences

PAGES = [ROOT / "README.md", *sorted(BOOK.glob("**/*.md"))]
PAGES.remove(BOOK / "instructors.md")  # its numbers are recomputed by test_instructors.py


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_proves_its_numbers(path):
    assert unproven(nbformat.read(path, as_version=4), path.parent) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_claims_what_notebooks_prove(path):
    assert unproven_page(path.read_text("utf-8"), path.parent, tuple(NOTEBOOKS)) == []


def test_each_cited_number_says_what_it_is():
    for number, source in claims.cited():
        assert number.value and (source.startswith("https://") or (ROOT / source).exists())


# --- The guard bites --------------------------------------------------------------------------

TABLE = """<style>.c77 {width: 99px}</style>
<thead><tr><th></th><th>share (%)</th><th>kept (MiB)</th><th>ratio</th></tr></thead>
<tr><th>VGG</th><td>61.37</td><td>46.13</td><td>2.67</td></tr>
<tr><th>AlexNet</th><td>61.37</td><td>46.13</td><td>2.75</td></tr>"""


def printed(text):
    return new_output("stream", text=text, name="stdout")


PROVING = new_notebook(
    cells=[
        new_code_cell(
            "side = 4096, 7, 215, 4, 9 * 66 * 128\nk * k * c\n1 - 2 / (3 * s)\n3 * s - t\n77",
            outputs=[printed("128,807,306 parameters, 0.928\n98,304; 36,864")],
        ),
        new_code_cell(
            "1", outputs=[printed("48,367,616 bytes; 0.0407; 1.149; 8.04 times; 70.9 ms\n")]
        ),
        new_code_cell("2 * n + 12", outputs=[printed("0.8532 ± 0.0036 (3), 1, 1, 2, 2, 2")]),
        new_code_cell(
            "5, 224, 224", outputs=[new_output("display_data", data={"text/html": TABLE})]
        ),
        new_code_cell("plot(width=99)", metadata={"tags": ["hide-input"]}),
    ]
)
SOURCE = "https://example.org/run"


@pytest.fixture(autouse=True)
def one_cited_number(request, monkeypatch):
    if "path" in request.fixturenames or request.function is test_each_cited_number_says_what_it_is:
        return  # the book itself is held to what it really cites
    number = next(numbers("0.8958"))
    monkeypatch.setattr(claims, "cited", lambda: ((number, SOURCE),))


def complaints(text):
    proofs = proofs_of(PROVING.cells) | worked_out(text)
    evidence = Evidence(proofs, proofs, in_order(PROVING.cells))
    return [
        complaint for sentence in sentences(text) for complaint in unproven_in(sentence, evidence)
    ]


RATIO = """| of | VGG | AlexNet | ratio |
|---|---|---|---|
| weights | 98,304 | 36,864 | {} |"""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("128,807,306 parameters", "128,807,307 parameters"),
        ("$128{,}807{,}306$ weights", "$128{,}807{,}316$ weights"),
        ("128.8 million", "128.9 million"),
        ("129 million", "128 million"),
        ("0.129 billion", "0.128 billion"),
        ("nearly 128,800,000 weights", "nearly 128,900,000 weights"),
        ("more than 120 million", "more than 129 million"),
        ("46 MiB", "47 MiB"),
        ("46.1 MiB or 48 MB", "46.1 MiB or 46 MB"),
        ("61 % or 61.4 %", "62 %"),
        ("93 % of them", "92 % of them"),
        ("92.8 percent", "92.9 percent"),
        ("0.93 of all", "0.92 of all"),
        ("4.1 percentage points", "4.2 percentage points"),
        ("8 times the work", "7 times the work"),
        ("eight times the work", "five times the work"),
        ("eight times longer", "six times longer"),
        ("8.0 times", "8.1 times"),
        ("71 ms a step", "72 ms a step"),
        ("46 MiB against 46.1", "46 MiB against 46.2"),
        ("a side of 4096", "a side of 77"),
        ("1/4096", "1/99"),
        ("VGG-16 in 2014 at 28×28, Table 31", "31 tables"),
        ("[1.2 Operations](flops.ipynb) and exercises 1.2 and 1.3", "exercise 1.2 has 1.3 more"),
        ("Python 3.11 on an H100 with float32", "33 floats"),
        ("`side = 1234`", "side = 1234"),
        ("5×224×224 and 4096×7 at 28×28", "7×224×224"),
        ("a matrix of 4096×7", "4096×8"),
        ("28×28 pixels", "26×28 pixels"),
        ("28×28 pixels", "29×29 pixels"),
        ("about 8 or 8.04", "8 or 8.04"),
        ("about 0.9", "0.9"),
        ("Twelve rows, 2 seeds", "120 rows"),
        ("12 rows", "11 rows"),
        ("epoch 2", "epoch 6"),
        ("images at 84", "images at 64"),
        ("61 %, 46 MiB, 8.0 times", "46 %"),  # 46 is said of what is no share
        ("61.4 % or 46.1 MiB", "46.1 of them"),
        ("8.0 times", "70.9 times"),
        ("1.15 points", "70.9 points"),
        ("48 MB", "4096 bytes"),
        ("0.853 (3)", "0.853 (2)"),
        ("kernels of 3×3, maps of 7×7", "kernels of 3×1"),
        ("a map of 7×7", "a map of 8×8"),
        ("| blocks | 1 | 1 | 2 | 2 |", "| blocks | 1 | 2 | 1 | 2 |"),
        ("1, 1, 2, 2 and 2 of them", "1, 1, 2, 3 and 2 of them"),
        ("2, 2, 4, 4, 4, as in VGG-19", "2, 2, 4, 4, 3, as in VGG-19"),
        ("11, 5, 3, 3 and 3", "11, 5, 5, 3 and 3"),
        ("halved to 14, 7, 3, 1", "halved to 14, 7, 4, 1"),
        ("in AlexNet 54, 26, then 12 and 5", "in AlexNet 54, 26, then 12 and 7"),
        ("in 2014", "in 2038"),
        ("$2W + nA$", "$5W + nA$"),
        ("$2W + nA$", "$12W + nA$"),  # code adds 12, and multiplies with 2
        ("$n + 12$", "$n / 12$"),
        ("$3F - G$", "$2F - G$"),  # code has 2 as a factor, but in no difference
        ("$k^2 c$", "$k^3 c$"),
        (r"$1 - \frac{2}{3s}$", "$1 - 4/(3s)$"),
        ("[8.0 times](x.md) as much", "[9.0 times](x.md) as much"),
        ("9·4096 = 36,864", "9·4096 = 36,846"),
        (r"$(3 \cdot 3 + 1) \cdot 6 = 60$", r"$(3 \cdot 3 + 1) \cdot 6 = 50$"),
        (r"$\frac{4096}{2} = 2048$", r"$\frac{4096}{2} = 2047$"),
        (r"$\lfloor 215/4 \rfloor + 1 = 54$, so 54×54", r"$\lfloor 215/4 \rfloor + 1 = 55$"),
        (r"$\lfloor 215/4 \rfloor + 1 = 54$", r"$\lfloor 213/4 \rfloor + 1 = 54$"),
        (r"$3^2 \cdot 2^3 = 72$", r"$3^2 \cdot 2^4 = 72$"),
        (r"$\sqrt{4096} = 64$", r"$\sqrt{4096} = 65$"),
        (r"$2 \cdot 36 = 8 \cdot 9$", r"$2 \cdot 36 = 8 \cdot 7$"),
        ("4,096 = 2·2048", "4,096 = 2·2046"),
        (r"$9 \cdot 66 \cdot 128$ weights", r"$9 \cdot 66 \cdot 126$ weights"),
        (r"$9 \cdot 7$, and $9 \cdot 7 + 4 = 67$", r"$9 \cdot 4$, and $9 \cdot 7 + 4 = 67$"),
        (r"$64 \cdot 55^2 = 193{,}600$", r"$64 \cdot 54^2 = 193{,}600$"),
        (f"[0.8958]({SOURCE})", "0.8958"),
        (f"about 0.90, [as here]({SOURCE}#it)", f"about 0.89, [as here]({SOURCE}#it)"),
        (f"see [it]({SOURCE}): 0.896", f"0.896. See [it]({SOURCE})."),
        (f"| run |\n|---|\n| [it]({SOURCE}): 0.8958 |", "| run |\n|---|\n| it: 0.8958 |"),
        ("| x | MiB |\n|---|---|\n| a | 46 |", "| x | MiB |\n|---|---|\n| a | 48 |"),
        ("| x | y |\n|---|---|\n| a (MiB) | 46 |", "| x | y |\n|---|---|\n| a (%) | 46 |"),
        (RATIO.format("2.67"), RATIO.format("2.75")),
    ],
)  # fmt: skip
def test_a_wrong_number_is_noticed(right, wrong):
    assert complaints(right) == []
    assert len(complaints(wrong)) >= 1


SECTIONS = """# A page

It prints 0.93 and 11 lines, 128,807,306 in all.

## One

Here are 0.93 and 11 lines.

## Two

Elsewhere are 0.93, 11 lines and 128,807,306 parameters.

## Hand in

There were 0.93 and 11 lines."""


def test_a_section_proves_its_numbers_and_the_page_those_that_are_long():
    first, one, two, last = SECTIONS.split("\n\n## ")
    cells = [
        new_markdown_cell(f"{first}\n\n## {one}"),
        new_code_cell("1", outputs=[printed("128,807,306; 0.928; 11 lines")]),
        new_markdown_cell(f"## {two}\n\n## {last}"),
    ]
    found = unproven(new_notebook(cells=cells))
    assert [complaint.partition(" in ")[0] for complaint in found] == ["0.93", "11"]
    assert all("Elsewhere" in complaint for complaint in found)


def test_a_cited_number_says_which_link_it_lacks():
    assert SOURCE in complaints("It ends at 0.8958.")[0]


def test_captions_and_alt_texts_are_prose():
    shown = {"figure": {"caption": "92 % are there."}, "image": {"alt": "A bar of 47 MiB."}}
    cells = [*PROVING.cells, new_code_cell("", metadata={"mystnb": shown})]
    assert len(unproven(new_notebook(cells=cells))) == 2


def test_a_linked_page_proves_the_sentence_that_links_to_it_and_no_other(tmp_path):
    study = [new_markdown_cell("## What it keeps"), *PROVING.cells, new_markdown_cell("## So?")]
    nbformat.write(new_notebook(cells=study), tmp_path / "study.ipynb")
    text = "It keeps [46 MiB](study.ipynb#what-it-keeps). It keeps 46.1 MiB."
    nb = new_notebook(cells=[new_markdown_cell(text)])
    assert [complaint[:8] for complaint in unproven(nb, tmp_path)] == ["46.1 MiB"]
    for link, found in (("", 1), ("#so", 2)):  # from afar only what is long is proven
        text = f"It [has 128,807,306, or 93 %](study.ipynb{link})."
        assert len(unproven(new_notebook(cells=[new_markdown_cell(text)]), tmp_path)) == found
    row = "| 1 | 46 MiB | [study](study.ipynb) |"
    assert unproven_page(row, tmp_path, ()) == []
    assert len(unproven_page(row.replace("46", "47"), tmp_path, ())) == 1


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("$3^2 \\cdot 64 = 576$", [576]),
        ("one has 2·3 = 6 and 2·4 = 8", [6, 8]),
        ("$k^2 c = 9$, VGG-11 = 11", []),
    ],
)
def test_calculations_by_hand_are_found(text, values):
    assert [value for _, value, _ in calculations(text)] == values


def test_a_sentence_knows_its_links_and_a_row_its_head():
    text = "One [a](b.ipynb). Two.\n\n| x (MiB) |\n|---|\n| 1 |"
    one, two, head, _, row = sentences(text)
    assert (one.links, two) == (("b.ipynb",), Sentence("Two."))
    assert row.head == head.head == "| x (MiB) |"
