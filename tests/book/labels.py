"""The guard on numbers that name something: exercises, sections, hints, rows, points and the like.

They round nothing, so that `claims.py` leaves them out. But each has to agree with something: an
exercise with the page that a link leads to, a section of a paper with `book/cited.toml`, a hint
with the one before it, points with those on the page for instructors.
"""

import re
import tomllib
from functools import cache

from claims import BOOK, ROOT

# | [1.1: parameters](parameters.ipynb) | 20 | 10 | both totals 3; biases counted 3; ... |
EXERCISE = re.compile(r"^\| \[([\d.]+): [^]]*\]\((\w+)\.ipynb\) \| \d+ \| (\d+) \| (.*) \|$", re.M)


@cache
def exercises():
    """Number, points in all and points one by one of each exercise, by the name of its page."""
    rows = EXERCISE.findall((BOOK / "instructors.md").read_text("utf-8"))
    return {page: (number, int(total), points_of(each)) for number, page, total, each in rows}


def points_of(text):
    """The points at the end of each part of a text, without what stands in brackets."""
    parts = re.sub(r"\([^)]*\)", "", text).split(";")
    return [int(re.findall(r"\d+", part)[-1]) for part in parts]


@cache
def places():
    """The sections and tables of outside pages that the book may name, by their address."""
    entries = tomllib.loads((BOOK / "cited.toml").read_text("utf-8"))["place"]
    return {entry["source"]: entry["names"] for entry in entries}


# --- The guards: each takes a page's text and its name, and yields its complaints ---------------

LINK = re.compile(r"\[([^][]*)\]\(([^)\s]*)\)")
CARD = re.compile(r"\{grid-item-card\} ([\d.]+?)\.? .*\n:link: (\w+)")
ROW = re.compile(r"^\| ([\d.]+?)\.? [A-Z].*\[\w+\]\((?:book/)?(\w+)\.ipynb\) \|$", re.MULTILINE)
MENTION = re.compile(r"\bexercises? (\d[\d.]*\d|\d)(?: and (\d[\d.]*\d|\d))?", re.IGNORECASE)


def names_exercises_by_their_numbers(text, page):
    number_of = {name: number for name, (number, _, _) in exercises().items()}
    targets = {}
    named = [(number, page) for number in re.findall(r"^# Exercise ([\d.]+):", text)]
    named += [pair for pattern in (CARD, ROW) for pair in pattern.findall(text)]
    for label, link in LINK.findall(text):
        target = re.sub(r".*/|\.ipynb.*", "", link)
        targets[target] = number_of.get(target)
        begins = re.findall(r"^(\d(?:\.\d)?)(?=:|$)", label)
        mentions = [n for match in MENTION.findall(label) for n in match if n]
        named += [(number, target) for number in begins + mentions if link.endswith(".ipynb")]
    for number, target in named:
        if number != number_of.get(target):
            yield f"exercise {number} is {number_of.get(target)}, says the link to {target}"
    known = {*targets.values(), number_of.get(page)} if set(targets.values()) - {None} else None
    for match in MENTION.findall(LINK.sub(" ", text)):
        for number in filter(None, match):
            if number not in (known or number_of.values()):
                yield f"exercise {number}: the page links to none of that number"


PLACE = re.compile(r"\b(section|table) (\d[\d.]*\d|\d)", re.IGNORECASE)


def names_sections_and_tables_that_are_there(text, page):
    links = LINK.findall(text)
    linked = [name for _, link in links for name in places().get(link, ())]
    anywhere = linked or [name for names in places().values() for name in names]
    for label, link in links:
        for kind, number in PLACE.findall(label):
            if f"{kind.lower()} {number}" not in places().get(link, ()):
                yield f"{kind} {number} is none that book/cited.toml has for {link}"
    for kind, number in PLACE.findall(LINK.sub(" ", text)):
        if f"{kind.lower()} {number}" not in anywhere:
            yield f"{kind} {number}: book/cited.toml has none for a link of this page"


COUNTED = {  # what counts up, and from how many on there must be more than one
    "hints": (r"<summary>Hint (\d+)</summary>", 1),
    "a list": (r"^\*{0,2}(\d+)\.(?:\*\*)? ", 2),
    "rows": (r"^\| block (\d+) \|", 2),
}


def counts_up(text, page):
    """Each list begins with 1, goes on one by one, and has a second item."""
    for what, (pattern, least) in COUNTED.items():
        numbers = list(map(int, re.findall(pattern, text, re.MULTILINE)))
        starts = [place for place, number in enumerate(numbers) if number == 1]
        lists = [numbers[a:b] for a, b in zip([0, *starts], [*starts, None], strict=False)][1:]
        before = numbers[: starts[0]] if starts else numbers
        for items in filter(None, [before, *lists]):
            if items != list(range(1, len(items) + 1)) or len(items) < least:
                yield f"{what}: the numbers are {numbers}"
                break


def gives_the_points_of_the_instructors(text, page):
    table = re.search(r"^\| points \|.*\n\|[-:| ]*\n((?:\|.*\n?)*)", text, re.MULTILINE)
    if table:
        points = list(map(int, re.findall(r"^\| (\d+) \|", table[1], re.MULTILINE)))
        number, total, wanted = exercises()[page]
        if points != wanted or sum(points) != total:
            yield f"points {points} are {wanted} of {total} in book/instructors.md"


def names_layers_as_many_as_networks_have(text, page):
    """A row of VGG-11 says 8+3."""
    for layers, convs, others in re.findall(r"^\| VGG-(\d+) .*\| (\d+)\+(\d+) \|", text, re.M):
        if int(layers) != int(convs) + int(others):
            yield f"VGG-{layers} has {layers} layers, not {convs}+{others}"


def names_blocks_in_their_order(text, page):
    """Of five: block 4, or blocks 3 to 5."""
    for match in re.finditer(r"\bblocks? \d(?:, \d)*(?:(?: and | to )(?:block )?\d\b)?", text):
        blocks = list(map(int, re.findall(r"\d", match[0])))
        if blocks != sorted(set(blocks)) or not set(blocks) <= set(range(1, 6)):
            yield f"{match[0]}: networks have blocks 1 to 5"


def gives_papers_their_years(text, page):
    """arXiv's numbers begin with the year."""
    for year, number in re.findall(r"\b(\d{4})\]\(https://arxiv.org/abs/(\d\d)", text):
        if year != f"20{number}":
            yield f"{year}: arXiv has the paper since 20{number}"


def needs_the_python_of_the_package(text, page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    least = project["requires-python"].removeprefix(">=")
    for version in re.findall(r"\bPython (\d+\.\d+)", text):
        if version != least:
            yield f"Python {version}: pyproject.toml says {least}"


GUARDS = [
    names_exercises_by_their_numbers,
    names_sections_and_tables_that_are_there,
    counts_up,
    gives_the_points_of_the_instructors,
    names_layers_as_many_as_networks_have,
    names_blocks_in_their_order,
    gives_papers_their_years,
    needs_the_python_of_the_package,
]


def mislabelled(text, page):
    """What the guards say of a page's text; `page` is its name without the ending."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [complaint for guard in GUARDS for complaint in guard(text, page)]
