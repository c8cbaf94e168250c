"""What numbers name agrees, on every page; and a wrong name is noticed."""

import labels
import nbformat
import pytest
from claims import prose_of
from labels import mislabelled
from test_notebooks import BOOK, NOTEBOOKS, ROOT

PAGES = [ROOT / "README.md", *sorted(BOOK.glob("**/*.md")), *NOTEBOOKS]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_names_what_is_there(path):
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join(prose_of(nbformat.reads(text, as_version=4).cells))
    assert mislabelled(text, path.stem) == []


def test_each_exercise_is_on_the_page_for_instructors():
    pages = {path.stem for path in NOTEBOOKS if "# Exercise" in path.read_text("utf-8")}
    assert set(labels.exercises()) == pages
    for _, total, parts in labels.exercises().values():
        assert sum(points for points, _ in parts) == total


POINTS = "| points | what a grader looks for |\n|---:|---|\n| 2 | which |\n| 1 | why |\n| 1 | how |"
WEIGHTS = "book/results/low_resolution/final.safetensors"
PAPER = "https://arxiv.org/abs/1409.1556"
MOMENTUM = "https://d2l.ai/chapter_optimization/momentum.html"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("# Exercise 2: layers", "# Exercise 3: layers"),
        ("[exercise 1.2](flops.ipynb)", "[exercise 1.1](flops.ipynb)"),
        ("[1.2: operations](flops.ipynb)", "[1.3: operations](flops.ipynb)"),
        ("[It](flops.ipynb), in exercise 1.2", "[It](flops.ipynb), in exercise 4"),
        ("exercises 1.2 and 1.3", "exercises 1.2 and 1.5"),
        (
            "[1.1](parameters.ipynb) and exercise 1.2's [table](flops.ipynb)",
            "[1.1](parameters.ipynb) and exercise 1.1's [table](flops.ipynb)",
        ),
        ("## [1.1: How many?](parameters.ipynb)", "## [1.2: How many?](parameters.ipynb)"),
        (
            "| 1. Slower? | Yes. | [memory_and_speed](book/memory_and_speed.ipynb) |",
            "| 2. Slower? | Yes. | [memory_and_speed](book/memory_and_speed.ipynb) |",
        ),
        (f"[section 12.6]({MOMENTUM})", f"[section 12.5]({MOMENTUM})"),
        (f"Table 1 of [the paper]({PAPER})", f"Table 3 of [the paper]({PAPER})"),
        (f"[Simonyan, 2014]({PAPER})", f"[Simonyan, 2015]({PAPER})"),
        (
            "<summary>Hint 1</summary> <summary>Hint 2</summary>",
            "<summary>Hint 1</summary> <summary>Hint 3</summary>",
        ),
        (
            "<summary>Hint 1</summary> <summary>Hint 2</summary>",
            "<summary>Hint 1</summary> <summary>Hint 1</summary>",
        ),
        ("1. a\n2. b\n\n1. c\n2. d", "1. a\n2. b\n\n1. c\n1. d"),
        ("**1.** a\n\n**2.** b", "**2.** a\n\n**2.** b"),
        ("| block 1 | x |\n| block 2 | y |", "| block 1 | x |\n| block 4 | y |"),
        (POINTS, POINTS.replace("| 2 |", "| 3 |")),
        (POINTS.replace("which", "blocks 3 to 5"), POINTS.replace("which", "blocks 3 to 4")),
        ("| VGG-16 | 2, 2, 3, 3, 3 | 13+3 |", "| VGG-16 | 2, 2, 3, 3, 3 | 13+2 |"),
        ("| VGG-16 | 2, 2, 3, 3, 3 | 13+3 |", "| VGG-16 | 2, 2, 3, 4, 3 | 13+3 |"),
        ("VGG-11 has 11 layers", "VGG-11 has 13 layers"),
        ("FC 1 to FC 3", "FC 1 to FC 4"),
        ("VGG (3×3, stride 1, padding 1)", "VGG (3×3, stride 1, padding 2)"),
        (
            "AlexNet has 11×11 kernels, stride 4 and padding 1",
            "AlexNet has 11×11 kernels, stride 3 and padding 1",
        ),
        ("AlexNet has $k = 11$, $p = 1$, $s = 4$", "VGG has $k = 11$, $p = 1$, $s = 4$"),
        ("VGG's convolutions have padding 1", "VGG's convolutions have padding 2"),
        ("AlexNet's 3×3 poolings with stride 2", "AlexNet's 2×2 poolings with stride 2"),
        ("four blocks at 84, seed 2", "four blocks at 64, seed 2"),
        (f"`{WEIGHTS}` holds the weights of seed 0", f"`{WEIGHTS}` holds the weights of seed 1"),
        ("the network at 224, seed 0", "the network at 224, seed 9"),
        ("a learning rate of 0.01, weight decay 0.0005", "a learning rate of 0.07"),
        ("momentum 0.9, label smoothing 0.1", "momentum 0.9, label smoothing 0.4"),
        ("blocks 3 to 5, from block 4 to block 5", "blocks 3 to 6"),
        ("In blocks 3, 4 and 5", "In blocks 3, 2 and 5"),
        ("Python 3.11 or newer", "Python 3.10 or newer"),
    ],
)
def test_a_wrong_name_is_noticed(right, wrong):
    assert mislabelled(right, "missing_layers") == []
    assert len(mislabelled(wrong, "missing_layers")) == 1


def test_on_the_pages_about_low_resolution_a_number_after_at_is_a_side():
    assert mislabelled("It does not fall at 84. At 56 it does.", "low_resolution") == []
    assert len(mislabelled("It does not fall at 64. At 16 it does.", "low_resolution")) == 2
    assert mislabelled("At 64 images it is faster.", "memory_and_speed") == []
