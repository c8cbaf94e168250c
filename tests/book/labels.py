"""The guard on numbers that name something: exercises, sections, hints, rows, points and the like.

They round nothing, so that `claims.py` leaves them out. But each has to agree with something: an
exercise with the page that a link leads to, a section of a paper with `book/cited.toml`, a hint
with the one before it, points with those on the page for instructors, a learning rate with the runs
of `book/experiments`, a stride with the network.
"""

import re
import tomllib
from functools import cache

from claims import BOOK, ROOT
from safetensors import safe_open
from torch import nn

import d2l_utils as d2l

# | [1.1: parameters](parameters.ipynb) | 20 | 10 | both totals 3; biases counted 3; ... |
EXERCISE = re.compile(r"^\| \[([\d.]+): [^]]*\]\((\w+)\.ipynb\) \| \d+ \| (\d+) \| (.*) \|$", re.M)


@cache
def exercises():
    """Number, points in all and points one by one of each exercise, by the name of its page."""
    rows = EXERCISE.findall((BOOK / "instructors.md").read_text("utf-8"))
    return {page: (number, int(total), list(points_of(each))) for number, page, total, each in rows}


def points_of(text):
    """(points, other numbers) of each part of a text; what stands in brackets are none."""
    for part in text.split(";"):
        *others, points = re.findall(r"\d+", re.sub(r"\([^)]*\)", "", part))
        yield int(points), others + re.findall(r"\d+", " ".join(re.findall(r"\([^)]*\)", part)))


@cache
def places():
    """The sections and tables of outside pages that the book may name, by their address."""
    entries = tomllib.loads((BOOK / "cited.toml").read_text("utf-8"))["place"]
    return {entry["source"]: entry["names"] for entry in entries}


# --- The guards: each takes a page's text and its name, and yields its complaints ---------------

LINK = re.compile(r"\[([^][]*)\]\(([^)\s]*)\)")
ROW = re.compile(r"^\| ([\d.]+?)\.? [A-Z].*\[\w+\]\((?:book/)?(\w+)\.ipynb\) \|$", re.MULTILINE)
MENTION = re.compile(r"\bexercises? (\d[\d.]*\d|\d)(?: and (\d[\d.]*\d|\d))?", re.IGNORECASE)


def names_exercises_by_their_numbers(text, page):
    number_of = {name: number for name, (number, _, _) in exercises().items()}
    targets = {}
    named = [(number, page) for number in re.findall(r"^# Exercise ([\d.]+):", text)]
    named += ROW.findall(text)
    for label, link in LINK.findall(text):
        target = re.sub(r".*/|\.ipynb.*", "", link)
        targets[target] = number_of.get(target)
        begins = re.findall(r"^(\d(?:\.\d)?)(?=:|$)", label)
        mentions = [n for match in MENTION.findall(label) for n in match if n]
        named += [(number, target) for number in begins + mentions if link.endswith(".ipynb")]
    named += re.findall(r"xercise (\d[\d.]*)'s \[[^]]*\]\((?:\.\./)?(\w+)\.ipynb", text)
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


def counts_its_hints(text, page):
    hints = list(map(int, re.findall(r"<summary>Hint (\d+)</summary>", text)))
    if hints != list(range(1, len(hints) + 1)):
        yield f"hints: the numbers are {hints}"


COUNTED = {"a list": r"^\*{0,2}(\d+)\.(?:\*\*)? ", "rows": r"^\| block (\d+) \|"}


def counts_up(text, page):
    """Each list begins with 1, goes on one by one, and has a second item."""
    for what, pattern in COUNTED.items():
        numbers = list(map(int, re.findall(pattern, text, re.MULTILINE)))
        starts = [place for place, number in enumerate(numbers) if number == 1]
        lists = [numbers[a:b] for a, b in zip([0, *starts], [*starts, None], strict=False)][1:]
        before = numbers[: starts[0]] if starts else numbers
        for items in filter(None, [before, *lists]):
            if items != list(range(1, len(items) + 1)) or len(items) < 2:
                yield f"{what}: the numbers are {numbers}"
                break


def gives_the_points_of_the_instructors(text, page):
    table = re.search(r"^\| points \|.*\n\|[-:| ]*\n((?:\|.*\n?)*)", text, re.MULTILINE)
    if table:
        rows = re.findall(r"^\| (\d+) \| (.*) \|$", table[1], re.MULTILINE)
        found = [int(points) for points, _ in rows]
        number, total, wanted = exercises()[page]
        if found != [points for points, _ in wanted] or sum(found) != total:
            yield f"points {found} are {wanted} of {total} in book/instructors.md"
        for (points, said), (_, others) in zip(rows, wanted, strict=False):
            if not set(re.findall(r"\d+", said)) <= set(others):
                yield f"{said!r} for {points} points: book/instructors.md has {others}"


@cache
def convolutions():
    """How many convolutions the blocks of VGG-11 and the others have, by the number of layers."""
    columns = [[convs for convs, _ in d2l.VGG_ARCHS[letter]] for letter in "ABDE"]
    return {sum(convs) + 3: convs for convs in columns}


def names_layers_as_many_as_networks_have(text, page):
    """A row of VGG-11 says 1, 1, 2, 2, 2 and 8+3, and a sentence that it has 11 layers."""
    for layers, blocks, convs, fcs in re.findall(
        r"^\| VGG-(\d+) \| ([\d, ]+) \| (\d+)\+(\d+) \|", text, re.MULTILINE
    ):
        right = convolutions()[int(layers)]
        said = list(map(int, blocks.split(", "))), int(convs), int(fcs)
        if said != (right, sum(right), 3):
            yield f"VGG-{layers} has {right}, {sum(right)}+3, not {blocks}, {convs}+{fcs}"
    for network, layers in re.findall(r"\bVGG-(\d+) has (\d+) layers", text):
        if network != layers:
            yield f"VGG-{network} has {network} layers, not {layers}"
    for network, blocks in re.findall(r"\bVGG-(\d+) has ((?:\d, )+\d and \d)", text):
        if list(map(int, re.findall(r"\d", blocks))) != convolutions()[int(network)]:
            yield f"VGG-{network} has {convolutions()[int(network)]}, not {blocks}"
    for fc in re.findall(r"\bFC (\d+)", text):
        if fc not in ("1", "2", "3"):
            yield f"FC {fc}: networks have FC 1 to 3"


@cache
def first(kind, network):
    """Kernel, stride and padding of a network's first convolution or pooling."""
    net = d2l.AlexNet() if network == "AlexNet" else d2l.VGG(d2l.VGG_ARCHS["A"])
    layer = next(layer for layer in net.modules() if isinstance(layer, kind))
    sizes = layer.kernel_size, layer.stride, layer.padding
    return tuple(size if isinstance(size, int) else size[0] for size in sizes)


WINDOWS = [  # what gives k, s and p of a convolution or pooling of the network named last
    (nn.Conv2d, r"(?P<k>\d+)\$?(?: kernels)?, stride (?P<s>\d+)(?:,| and) padding (?P<p>\d+)"),
    (nn.Conv2d, r"k = (?P<k>\d+)\$, \$p = (?P<p>\d+)\$, \$s = (?P<s>\d+)"),
    (nn.Conv2d, r"(?<=VGG's )convolutions have padding (?P<p>\d+)"),
    (nn.MaxPool2d, r"(?P<k>\d+) poolings with stride (?P<s>\d+)"),
]


def gives_kernels_strides_and_paddings(text, page):
    for kind, pattern in WINDOWS:
        for match in re.finditer(pattern, text):
            name = re.findall(r"VGG|AlexNet", text[: match.start()])[-1]
            right = dict(zip("ksp", first(kind, name), strict=True))
            wrong = {
                letter: n for letter, n in match.groupdict().items() if int(n) != right[letter]
            }
            if wrong:
                yield f"{match[0]!r}: {name}'s first {kind.__name__} has {right}"


@cache
def settings():
    """What the runs of book/experiments are set to, by name: all sides, seeds, learning rates."""
    tables = [tomllib.loads(path.read_text("utf-8")) for path in BOOK.glob("experiments/*.toml")]
    values = {}
    for run in (run for t in tables for run in (t, t["defaults"], *t["variants"].values())):
        for name, value in run.items():
            values.setdefault(name, set()).update(value if name == "seeds" else [str(value)])
    return values | {"seeds": set(map(str, values["seeds"]))}


NETWORK = r"(?:blocks?|poolings|five|four|three|networks?|VGG-\d+|MACs|accuracy|recipe|runs)"
SETTINGS = {
    "resolution": re.compile(rf"\b{NETWORK} at (\d+)(?![\d×]|\.\d)"),
    "seeds": re.compile(r"(?<!one )\bseed (\d+)"),
    "lr": re.compile(r"(?:learning rate|one cycle)(?: of| to)? (\d[\d.]*\d)"),
    "momentum": re.compile(r"momentum(?: of)? (\d[\d.]*\d)"),
    "weight_decay": re.compile(r"weight decay(?: of)? (\d[\d.]*\d)"),
    "label_smoothing": re.compile(r"label smoothing(?: of)? (\d[\d.]*\d)"),
}


SIDE = re.compile(r"\b(?:[Aa]t|below|above|beats?) (\d\d+)(?![\d×]|\.\d| [x×])")


def gives_settings_that_runs_have(text, page):
    sides = [("resolution", SIDE)] if page == "low_resolution" else []  # there all are of images
    for name, pattern in [*SETTINGS.items(), *sides]:
        for value in pattern.findall(text):
            if value not in settings()[name]:
                yield f"{name} {value}: the runs have {sorted(settings()[name])}"


def gives_weights_their_seed(text, page):
    """As the file of the weights has it."""
    for path, said in re.findall(r"`(book/\S+\.safetensors)`[^.]*\bseed (\d+)", text):
        with safe_open(ROOT / path, "pt") as file:
            seed = file.metadata()["seed"]
        if said != seed:
            yield f"seed {said}: {path} has {seed}"


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
    counts_its_hints,
    counts_up,
    gives_the_points_of_the_instructors,
    names_layers_as_many_as_networks_have,
    gives_kernels_strides_and_paddings,
    gives_settings_that_runs_have,
    gives_weights_their_seed,
    names_blocks_in_their_order,
    gives_papers_their_years,
    needs_the_python_of_the_package,
]


def mislabelled(text, page):
    """What the guards say of a page's text; `page` is its name without the ending."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [complaint for guard in GUARDS for complaint in guard(text, page)]
