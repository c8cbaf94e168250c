"""The guard on numbers: what prose claims must round what a cell prints, or be cited.

Prose rounds as people do: 128.8 million for 128,807,306, 46 MiB for 48,367,616 bytes, 93 % for
0.928. A `Number` is what was found in a text, with its unit and the precision that it was written
with. The numbers of a page's prose are its claims; those that its cells print, or hold in code that
computes, are its proofs. `unproven` compares the two and returns its complaints.
"""

import ast
import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"

# Each unit: what it measures, its size, and how it is written after a number or named in a table.
UNITS = {
    "%": ("share", 1e-2, r"%|per ?cent\b|percentage points?"),
    "thousand": ("count", 1e3, r"thousand"),
    "million": ("count", 1e6, r"millions?|MMACs?\b|M\b(?![$(_])"),
    "billion": ("count", 1e9, r"billions?|GMACs?\b|GFLOPs?\b|G\b(?![$(_])"),
    "kB": ("bytes", 1e3, r"[kK]B\b"),
    "MB": ("bytes", 1e6, r"MB\b"),
    "GB": ("bytes", 1e9, r"GB\b"),
    "KiB": ("bytes", 2**10, r"[kK]iB\b"),
    "MiB": ("bytes", 2**20, r"MiB\b"),
    "GiB": ("bytes", 2**30, r"GiB\b"),
    "bytes": ("bytes", 1, r"bytes?\b"),
    "µs": ("time", 1e-6, r"[µμ]s\b|microseconds?"),
    "ms": ("time", 1e-3, r"ms\b|milliseconds?"),
    "s": ("time", 1, r"s\b|seconds?"),
    "min": ("time", 60, r"min\b|minutes?"),
    "h": ("time", 3600, r"h\b|hours?"),
    "times": ("ratio", 1, r"times\b|×(?!\s?\d)|(?<=\d)x\b|-?fold\b|ratios?\b"),
}
UNIT = re.compile("|".join(f"(?P<u{i}>{unit[2]})" for i, unit in enumerate(UNITS.values())))
NUMBER = re.compile(
    r"(?<![\w.])(?<![A-Za-z]-)(?P<digits>\d+(?:\.\d+)?)(?P<exponent>e[+-]?\d+)?(?!\.?\d)"
)
SEPARATOR = re.compile(r"(?<=\d)(?:,|\{,\}|\\,|[_\u00a0\u2009\u202f])(?=\d{3}(?!\d))")
ABOUT = re.compile(r"(?:about|around|almost|nearly|roughly|some|≈|~)\s*\$?$", re.IGNORECASE)
ABOVE = re.compile(r"(?:more than|over|above|at least|beyond|>)\s*\$?$", re.IGNORECASE)
BELOW = re.compile(r"(?:less than|fewer than|under|below|at most|<)\s*\$?$", re.IGNORECASE)


@dataclass(frozen=True)
class Number:
    """A number as it is written: 128.8 with a step of 0.1 and the unit million."""

    text: str
    value: float
    step: float
    unit: str | None = None
    before: str = ""  # the words that stand before and after it
    after: str = ""
    column: frozenset = frozenset()  # units that its table or output names
    printed: bool = True


def unit_at(text, start):
    match = UNIT.match(text, start)
    return list(UNITS)[match.lastindex - 1] if match else None


def units_named(text):
    """The units that a text names by themselves, as the head of a table does."""
    found = re.finditer(rf"(?<![\w]){UNIT.pattern}", text)
    return frozenset(list(UNITS)[match.lastindex - 1] for match in found)


def numbers(text, column=frozenset(), printed=True):
    """Yields the numbers of a text, each with the unit that follows it."""
    text = SEPARATOR.sub("", text)
    for match in NUMBER.finditer(text):
        end = match.end()
        gap = re.compile(r"[ \u00a0\u2009\u202f]?").match(text, end).end()
        unit = unit_at(text, gap)
        if unit is None and text[end : end + 1].isalpha():
            continue  # a name that begins with a digit: 2D, 9B14, 3rd
        decimals = len(match["digits"].partition(".")[2])
        value = float(match[0])
        step = 10.0**-decimals * 10.0 ** int((match["exponent"] or "e0")[1:])
        before, after = text[max(0, end - len(match[0]) - 30) : match.start()], text[end : end + 40]
        yield Number(match[0], value, step, unit, before, after, column, printed)


# --- What a page proves -----------------------------------------------------------------------


def code_numbers(cell):
    """The numbers that code computes with: none of a cell that only draws, of a bare literal."""
    if "hide-input" in cell.metadata.get("tags", []):
        return
    tree = ast.parse(TransformerManager().transform_cell(cell.source))
    bare = {
        node
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant | ast.Tuple | ast.List)
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        if number and node not in bare:
            yield from numbers(repr(node.value), printed=False)


def printed_texts(cell):
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        for mime, text in output.get("data", {}).items():
            if mime == "text/html":
                html = BeautifulSoup(text, "html.parser")
                for style in html("style"):
                    style.decompose()
                yield html.get_text(" ")
            elif mime.startswith("text/"):
                yield text


def proofs_of(nb):
    found = []
    for cell in nb.cells:
        if cell.cell_type == "code":
            found += code_numbers(cell)
            for text in printed_texts(cell):
                found += numbers(text, units_named(text))
    # Of what stands around a number only the next one matters, for shapes such as 25088×4096.
    following = [*(number.text for number in found), ""][1:]
    pairs = zip(found, following, strict=True)
    return frozenset(replace(number, before="", after=after) for number, after in pairs)


@cache
def proofs_at(path):
    return proofs_of(nbformat.read(path, as_version=4)) if path.is_file() else frozenset()


@cache
def cited():
    """Returns (number, source) for each entry of book/cited.toml."""
    path = BOOK / "cited.toml"
    entries = tomllib.loads(path.read_text("utf-8")).get("cited", []) if path.exists() else []
    return tuple((n, e["source"]) for e in entries for n in numbers(str(e["value"])))


# --- What prose claims ------------------------------------------------------------------------

# What is no claim: code, targets of links, years, and numbers that name something.
NO_CLAIM = re.compile(
    r"""```.*?```|~~~.*?~~~ | `[^`\n]+` | <[a-z/!][^>]*> | <https?:[^>]*> | https?://\S+
    | \barxiv[:\s]\s*\d{4}\.\d{4,5}
    | (?<![\d.,])(?:19[5-9]\d|20[0-3]\d)(?![.,]?\d|\s?(?:%|[×x·]|[a-z]*illion))
    | (?:\b(?:chapters?|exercises?|figures?|sections?|tables?|equations?|python|pytorch|torch
      |torchvision|cuda|version|by-sa|cells?|blocks?|conv|seeds?|epochs?|steps?)|§)
      \s*\(?\d+(?:\.\d+)*
      (?:(?:,|,?\ and|\ or|\ to|–)\s*\d+(?:\.\d+)*(?![\d%]|\.\d|\s[%a-zA-Z]*illion))*
    | ^\#+\s*\d+(?:\.\d+)*\.?\s | (?<=\[)\d+(?:\.\d+)*\.?(?=[\s\]]) | ^\|\s*\*{0,2}\d(?:\.\d)?\b
    | \{grid-item-card\}\s*\d+(?:\.\d+)*\.?\s | ^:[\w-]+:.*?(?=\s|$) | ^\s*\d+\.\s
    | (?:about|around)\s\d+\s(?:seconds|minutes|s|min)\b""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
PRODUCT = re.compile(r"(?<![\w.])\d+(?:\s?[×x]\s?\d+)+(?![\w.]*\d)")  # shapes: 3×224×224, 4096×1000
LATEX = {
    r"\\(?:cdot|ast)\b\s?": "·", r"\\times\b\s?": "×", r"\\approx\b": "≈", r"\\%": "%",
    r"\\(?:text|mathrm|mathbf)\{([^{}]*)\}": r"\1",
    r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}": r"(\1)/(\2)",
    r"\\lfloor\b": "⌊", r"\\rfloor\b": "⌋", r"\\(?:left|right|big|Big)(?![a-z])": "",
    r"(?<=\d)~(?=\w)": " ", r"\\,(?!\d{3})": " ",
    r"_\{[^{}]*\}|_\w": "",
}  # fmt: skip
WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
SPOKEN = re.compile(
    rf"\b({'|'.join(WORDS[2:])})\s+times\s+(?=as\b|the\b|more\b|fewer\b|less\b|its\b|[a-z]+er\b)"
)
LINK = re.compile(r"(?<=\])\(([^)\s]*)\)|<(https?:[^>]*)>|^:link:\s*(\S+)", re.MULTILINE)
SENTENCE_END = re.compile(r"(?<=[.!?])[)*_”\"]*\s+(?=[A-Z(*\[“\"$0-9<])")


@dataclass(frozen=True)
class Sentence:
    """A sentence of prose, or a row of a table, with the links that stand in it."""

    text: str
    links: tuple = ()
    column: frozenset = frozenset()


def links_in(text):
    return tuple(next(filter(None, match)) for match in LINK.findall(text) if any(match))


def sentences(markdown):
    """Yields the sentences of a text; a row of a table has the table's links and those above it."""
    markdown = re.sub(r"```.*?```|~~~.*?~~~", " ", markdown, flags=re.DOTALL)
    above = ()
    for block in re.split(r"\n\s*\n|\n(?=\s*[-*] |\s*\d+\. |#)", markdown):
        rows = block.strip().splitlines()
        if rows and all(row.lstrip().startswith("|") for row in rows):
            links = above + links_in(block) if len(rows) and not any(map(links_in, rows)) else above
            for row in rows:
                yield Sentence(row, links + links_in(row), units_named(rows[0]))
        elif ":link:" in block:  # a card of the first page leads somewhere as a whole
            yield Sentence(block, links_in(block))
        else:
            for text in SENTENCE_END.split(block):
                yield Sentence(text, links_in(text))
        above = links_in(block)


def plain(text):
    """The text without what is no claim, and with its formulas' signs as they are read."""
    text = re.sub(r"\]\([^)\s]*\)", "]", text)
    for latex, sign in LATEX.items():
        text = re.sub(latex, sign, text)
    text = NO_CLAIM.sub(" ", text)
    text = SEPARATOR.sub("", text)
    text = re.sub(r"\btwice (?=as\b)", "2 times ", text)
    return SPOKEN.sub(lambda match: f"{WORDS.index(match[1])} times ", text)


def shapes(text):
    """The products of numbers, as they may stand in code and outputs too: 64×224×224."""
    return [
        tuple(map(int, re.findall(r"\d+", match[0]))) for match in PRODUCT.finditer(plain(text))
    ]


def claims(sentence):
    """The numbers that need a proof: from 13 on, with a decimal point, or with a unit."""
    for number in numbers(PRODUCT.sub(" ", plain(sentence.text)), sentence.column):
        named = number.unit is None and number.value in (28, 224)  # the sides of the images
        if number.unit or number.step < 1 or number.value >= 13 and not named:
            yield number


# --- Hand calculation -------------------------------------------------------------------------

ARITHMETIC = r"[\d.()⌊⌋·×*+−\-/²³^ ]+"


def evaluate(expression):
    """The value of an expression of numbers alone, or None where it is something else."""
    signs = {"·": "*", "×": "*", "−": "-", "²": "**2", "³": "**3", "^": "**"}
    signs |= {"⌊": "int(", "⌋": ")"}
    python = "".join(signs.get(sign, sign) for sign in expression.strip(" .$"))
    if not re.fullmatch(r"(?:int)?[\d(](?:[\d.()*+\-/ ]|int)*", python) or len(python) > 100:
        return None
    if re.search(r"\*\*\s*\d{3,}|\*\*.*\*\*", python):
        return None
    try:
        return float(eval(python, {"__builtins__": {}, "int": int}))
    except (SyntaxError, TypeError, ZeroDivisionError):
        return None


def calculations(text):
    """Yields (expression, its value, the number said to equal it) for each `3·3·64 = 576`."""
    text = re.sub(r"\{(\d+)\}", r"\1", plain(text)).replace("$", "")
    for sign in re.finditer(r"[=≈]", text):
        left = re.search(rf"(?<![\w,]){ARITHMETIC}$", text[: sign.start()])
        results = list(numbers(text[sign.end() :]))[:1]
        if left and results and re.match(r"\s*$", results[0].before[-3:]):
            value = evaluate(left[0])
            if value is not None and re.search(r"[\d)⌋]\s*[·×*+−/²³^-]", left[0]):
                yield left[0].strip(), value, results[0]


def is_right(value, result):
    return any(near(result, value, result.step * factor) for factor in (1, size(result.unit)))


def worked_out(markdown):
    """The numbers of a text's calculations that are right, and so prove themselves."""
    found = [
        (expression, result)
        for sentence in sentences(markdown)
        for expression, value, result in calculations(sentence.text)
        if is_right(value, result)
    ]
    return frozenset(
        replace(number, unit=None, before="", after="", printed=False)
        for expression, result in found
        for number in (*numbers(re.sub(r"[·×*/^⌊⌋²³]", " ", expression)), result)
    )


# --- The guard --------------------------------------------------------------------------------


def size(unit):
    return UNITS[unit][1] if unit else 1


def measures(unit):
    return UNITS[unit][0] if unit else None


def near(claim, value, step):
    """Says whether the claim, in this step's unit, rounds the value or bounds it closely."""
    said = claim.value * step / claim.step
    if ABOVE.search(claim.before):
        return said <= value <= 1.2 * said
    if BELOW.search(claim.before):
        return 0.8 * said <= value <= said
    if ABOUT.search(claim.before):
        if claim.step == 1:  # about 4,500: as many digits as stand there
            zeros = len(claim.text) - len(claim.text.rstrip("0"))
            step *= 10 ** min(zeros, max(len(claim.text) - 2, 0))
    elif claim.unit is None and len(claim.text.replace(".", "").lstrip("0")) < 2:
        step = 0  # 0.1 alone is too short to be a rounding
    return abs(said - value) <= min(step / 2, 0.1 * value) * (1 + 1e-9) + 1e-12


MORE = re.compile(r"\s?%\s(?:more|higher|longer|slower|larger|extra|above)")
LESS = re.compile(r"\s?%\s(?:less|fewer|lower|shorter|faster|smaller|below)")


def proves(proof, claim, unit):
    """Says whether the proof rounds to the claim, read with this unit."""
    kind, factor = measures(unit), size(unit)
    is_fraction = proof.unit is None and proof.step <= 0.01
    if kind is None:
        if proof.unit == "%" and claim.step < 1:
            return near(claim, proof.value / 100, claim.step)
        rounds = proof.step == 1 or claim.step < 1 or ABOUT.search(claim.before)
        return bool(rounds) and near(claim, proof.value, claim.step)
    # A table in millions, MiB or % prints the number itself and names the unit.
    if proof.unit == unit or (proof.unit is None and proof.printed and unit in proof.column):
        if near(claim, proof.value, claim.step):
            return True
    if kind == "ratio":
        return proof.step < 1 and proof.printed and near(claim, proof.value, claim.step)
    if kind == "share":
        if proof.unit not in (None, "times") or not is_fraction and proof.unit is None:
            return False
        change = 1 if MORE.match(claim.after) else -1 if LESS.match(claim.after) else 0
        value = change * (proof.value - 1) if change else proof.value
        return near(claim, value, claim.step * factor)
    if proof.unit is None:
        is_base = proof.step == 1 or kind == "time" and bool(proof.column & {"s", "ms"})
        return is_base and near(claim, proof.value, claim.step * factor)
    same = measures(proof.unit) == kind
    return same and near(claim, proof.value * size(proof.unit), claim.step * factor)


def unproven_shapes(sentence, proofs):
    """Complains of sides that no cell knows, and of factors that differ where none has them."""
    known = {int(proof.value) for proof in proofs if proof.step == 1} | {28, 224}
    for shape in shapes(sentence.text):
        last_two = tuple(map(str, shape[-2:]))
        square = shape[-1] == shape[-2] or max(shape) < 13
        beside = square or any((proof.text, proof.after) == last_two for proof in proofs)
        if not beside or any(side >= 13 and side not in known for side in shape):
            yield f"{'×'.join(map(str, shape))}: no cell prints or computes with it"


def unproven_in(sentence, proofs):
    """The complaints about one sentence."""
    for expression, value, result in calculations(sentence.text):
        if not is_right(value, result):
            yield f"{expression} is {value:,.6g}, not {result.text}"
    yield from unproven_shapes(sentence, proofs)
    found = list(claims(sentence))
    for place, claim in enumerate(found):
        # In `7 GiB against 0.9` the second number has the unit of the first.
        before = [number.unit for number in found[:place] if number.unit][-1:]
        after = [number.unit for number in found[place:] if number.unit][:1]
        near_by = {None, *before, *after, *sentence.column}
        readings = [claim.unit] if claim.unit else near_by
        if any(proves(proof, claim, unit) for unit in readings for proof in proofs):
            continue
        sources = [
            source for number, source in cited() if any(proves(number, claim, u) for u in readings)
        ]
        if any(link.startswith(source) for source in sources for link in sentence.links):
            continue
        said = " ".join(sentence.text.split())[:70]
        why = f"it is cited: link {sources[0]}" if sources else "no cell prints what rounds to it"
        yield f"{claim.text}{' ' + claim.unit if claim.unit else ''} in {said!r}: {why}"


def linked_notebooks(links, folder):
    """The notebooks that links lead to; a card of the first page leaves the ending out."""
    paths = [folder / link.partition("#")[0] for link in links if not link.startswith("http")]
    paths = [path if path.suffix else path.with_suffix(".ipynb") for path in paths]
    return [path.resolve() for path in paths if path.suffix == ".ipynb" and path.is_file()]


def linked_proofs(links, folder):
    """What the notebooks prove that a sentence links to."""
    return frozenset().union(*map(proofs_at, linked_notebooks(links, folder)))


@cache
def with_studies(path):
    """What a notebook proves together with the studies that it links to."""
    links = links_in("\n\n".join(prose_of(nbformat.read(path, as_version=4))))
    studies = [p for p in linked_notebooks(links, path.parent) if p.parent.name == "studies"]
    return frozenset().union(*map(proofs_at, [path, *studies]))


def prose_of(nb):
    """The texts of a notebook that a reader reads: Markdown, captions and alt texts."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            yield cell.source
        shown = cell.metadata.get("mystnb", {})
        yield shown.get("figure", {}).get("caption", "")
        yield shown.get("image", {}).get("alt", "")


def unproven(nb, folder=BOOK):
    """The guard of a notebook: complaints about numbers in its prose that nothing proves."""
    own = proofs_of(nb) | worked_out("\n\n".join(prose_of(nb)))
    return [
        complaint
        for text in prose_of(nb)
        for sentence in sentences(text)
        for complaint in unproven_in(sentence, own | linked_proofs(sentence.links, folder))
    ]


def unproven_page(markdown, folder, notebooks):
    """The guard of a Markdown page.

    A sentence, a row or a card may claim what the notebooks prove that it links to, and their
    studies; where it links to none, what any notebook proves.
    """
    everything = frozenset().union(*map(proofs_at, notebooks))
    own = worked_out(markdown)
    complaints = []
    for sentence in sentences(markdown):
        linked = frozenset().union(*map(with_studies, linked_notebooks(sentence.links, folder)))
        complaints += unproven_in(sentence, own | (linked or everything))
    return complaints
