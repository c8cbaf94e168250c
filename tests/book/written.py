"""Numbers as they are written: found in a text, with their unit, their precision and their links.

Prose rounds as people do: 128.8 million, 46 MiB, 93 %. A `Number` has what such a writing says;
`sentences` cuts a text into what belongs together, `claims` gives the numbers of a sentence that
need a proof, and `calculations` what is worked out by hand. `claims.py` judges them.
"""

import re
from dataclasses import dataclass, replace

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
RUNS = re.compile(r"(?: ± [\d.]+)? \((\d{1,2})\)")
RUNS_BEFORE = re.compile(r"\.\d+ \($")
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
    operand: bool = False  # of an operation in code, or in a formula with letters
    runs: str = ""  # of `0.889 (3)` and `0.889 ± 0.004 (3)`, over how many runs


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
        if (
            RUNS_BEFORE.search(text[max(0, match.start() - 12) : match.start()])
            and text[end : end + 1] == ")"
        ):
            continue
        gap = re.compile(r"[ \u00a0\u2009\u202f]?").match(text, end).end()
        unit = unit_at(text, gap)
        if unit is None and text[end : end + 1].isalpha():
            continue  # a name that begins with a digit: 2D, 9B14, 3rd
        decimals = len(match["digits"].partition(".")[2])
        value = float(match[0])
        step = 10.0**-decimals * 10.0 ** int((match["exponent"] or "e0")[1:])
        runs = (RUNS.match(text, end) or [""] * 2)[1]
        before, after = text[max(0, end - len(match[0]) - 30) : match.start()], text[end : end + 40]
        yield Number(match[0], value, step, unit, before, after, column, printed, runs=runs)


# --- What prose claims ------------------------------------------------------------------------

# What is no claim: code, targets of links, years, and numbers that name something.
NO_CLAIM = re.compile(
    r"""```.*?```|~~~.*?~~~ | `[^`\n]+` | <[a-z/!][^>]*> | <https?:[^>]*> | https?://\S+
    | \barxiv[:\s]\s*\d{4}\.\d{4,5}
    | (?<![\d.,])(?:19[5-9]\d|20[0-3]\d)(?![.,]?\d|\s?(?:%|[×x·]|[a-z]*illion))
    | (?:\b(?:chapters?|exercises?|figures?|sections?|tables?|equations?|python|pytorch|torch
      |torchvision|cuda|version|by-sa|cells?|fc|seeds?|blocks?)|§)
      \s*\(?\d+(?:\.\d+)*
      (?:(?:,|,?\ and|\ or|\ to|–)\s*\d+(?:\.\d+)*(?![\d%]|\.\d|\s[%a-zA-Z]*illion))*
    | <summary>Hint\s\d+ | ^\#+\s*\d+(?:\.\d+)*\.?\s | (?<=\[)\d(?:\.\d)?(?=[:\]]|\s(?-i:[A-Z]))
    | ^\|\s*\*{0,2}\d(?:\.\d)?\.?\s(?=(?-i:[A-Z])|\|)
    | \{grid-item-card\}\s*\d+(?:\.\d+)*\.?\s | ^:[\w-]+:.*?(?=\s|$) | ^\s*\*{0,2}\d+\.(?=\s|\*|$)
    | (?:about|around)\s\d+\s(?:seconds|minutes|s|min)\b""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
PRODUCT = re.compile(r"(?<![\w.])\d+(?:\s?[×x]\s?\d+)+(?![\w.]*\d)")  # shapes: 3×224×224, 4096×1000
# Three integers and more in a row: 1, 1, 2, 2 and 2; 1 + 1 + 2; 2-2-2.
SEQUENCE = re.compile(
    r"(?<![\w.·×+−-])(?<![·×+−-] )"
    r"\d+(?:(?:,? and |, | ?\+ ?|-)\d+(?![\w%]|\.\d)){2,}+(?! ?[·×%=*^])"
)
SIDES = (28, 32, 56, 84, 224)  # of the images, on every page
KERNELS_AND_LAST_MAPS = (1, 3, 5, 7, 11)
CLASSES = 10
LATEX = {
    r"\\(?:cdot|ast)\b\s?": "·", r"\\times\b\s?": "×", r"\\approx\b": "≈", r"\\%": "%",
    r"\\(?:text|mathrm|mathbf)\{([^{}]*)\}": r"\1",
    r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}": r"(\1)/(\2)",
    r"\\lfloor\b": "⌊", r"\\rfloor\b": "⌋", r"\\(?:left|right|big|Big)(?![a-z])": "",
    r"(?<=\d)~(?=\w)": " ", r"\\,(?!\d{3})": " ",
    r"_\{[^{}]*\}|_\w": "",
}  # fmt: skip
FORMULA = re.compile(r"\$[^$]+\$")
VARIABLE = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
COEFFICIENT = re.compile(r"(?<=\d)\s?(?=[A-Za-z](?![A-Za-z]))")  # 2W is 2·W, and 3s no time
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
    text = FORMULA.sub(lambda formula: COEFFICIENT.sub("·", formula[0]), text)
    text = re.sub(r"\btwice (?=as\b)", "2 times ", text)
    return SPOKEN.sub(lambda match: f"{WORDS.index(match[1])} times ", text)


def integers(pattern, sentence):
    """The integers of each place that the pattern finds: of shapes, or of sequences."""
    found = pattern.finditer(plain(sentence.text))
    return [tuple(map(int, re.findall(r"\d+", match[0]))) for match in found]


def claims(sentence):
    """The numbers that need a proof."""
    text = SEQUENCE.sub(" ", PRODUCT.sub(" ", plain(sentence.text)))
    for side in (side for formula in FORMULA.findall(text) for side in formula.split("=")):
        if VARIABLE.search(side):
            constants = (replace(number, operand=True) for number in numbers(side))
            yield from (number for number in constants if number.value != 1)
            text = text.replace(side, " ", 1)
    for number in numbers(text, sentence.column):
        if number.unit or number.value not in (*SIDES, CLASSES):
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
