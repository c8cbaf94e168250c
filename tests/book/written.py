"""Numbers as they are written: found in a text, with their unit, their precision and their links.

Prose rounds as people do: 128.8 million, 46 MiB, 93 %. A `Number` has what such a writing says;
`sentences` cuts a text into what belongs together, `claims` gives the numbers of a sentence that
need a proof, and `calculations` what is worked out by hand. `claims.py` judges them.
"""

import ast
import math
import re
from dataclasses import dataclass, replace

# Each unit: what it measures, its size, and how it is written after a number or named in a table.
UNITS = {
    "%": ("share", 1e-2, r"%|per ?cent\b|percentage points?"),
    "points": ("points", 1, r"points?\b"),
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
    "s": ("time", 1, r"s\b|seconds\b"),
    "min": ("time", 60, r"min\b|minutes?"),
    "h": ("time", 3600, r"h\b|hours?"),
    "times": ("ratio", 1, r"times\b|×(?!\s?\d)|(?<=\d)x\b|-?fold\b|ratios?\b"),
}
UNIT = re.compile("|".join(f"(?P<u{i}>{unit[2]})" for i, unit in enumerate(UNITS.values())))
NUMBER = re.compile(
    r"(?<![\w.])(?<![A-Za-z]-)(?P<digits>\d+(?:\.\d+)?)(?P<exponent>e[+-]?\d+)?(?!\.?\d)"
)
SEPARATOR = re.compile(r"(?<=\d)(?:,|\{,\}|\\,|[_\u00a0\u2009\u202f])(?=\d{3}(?!\d))")
JOINED = re.compile(
    r" (?:and|or|to) \d+(?:\.\d+)?[ \u00a0\u2009\u202f]?(?=%|per ?cent|million|points)"
)
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
    source: str = "output"  # or code, or text, or part: the value of an expression
    role: str = ""  # in a formula or in code that computes: "+n", "n/", "^n"
    runs: str = ""  # of `0.889 (3)` and `0.889 ± 0.004 (3)`, over how many runs


def unit_at(text, start):
    match = UNIT.match(text, start)
    return list(UNITS)[match.lastindex - 1] if match else None


def units_named(text):
    """The units that a text names by themselves, as the head of a table does."""
    found = re.finditer(rf"(?<![\w'’])(?:{UNIT.pattern})", text)
    return frozenset(list(UNITS)[match.lastindex - 1] for match in found)


def numbers(text, column=frozenset(), source="output"):
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
        if joined := JOINED.match(text, end):  # 3 and 4 %
            gap = joined.end()
        unit = unit_at(text, gap)
        if unit is None and text[end : end + 1].isalpha():
            continue  # a name that begins with a digit: 2D, 9B14, 3rd
        decimals = len(match["digits"].partition(".")[2])
        value = float(match[0])
        step = 10.0**-decimals * 10.0 ** int((match["exponent"] or "e0")[1:])
        runs = (RUNS.match(text, end) or [""] * 2)[1]
        before, after = text[max(0, end - len(match[0]) - 30) : match.start()], text[end : end + 40]
        yield Number(match[0], value, step, unit, before, after, column, source, runs=runs)


# --- What prose claims ------------------------------------------------------------------------

# What is no claim: code, targets of links, years, and numbers that name something.
NO_CLAIM = re.compile(
    r"""```.*?```|~~~.*?~~~ | `[^`\n]+` | <[a-z/!][^>]*> | <https?:[^>]*> | https?://\S+
    | \barxiv[:\s]\s*\d{4}\.\d{4,5}
    | (?<![\d.,])(?:199\d|20[12]\d)(?![.,]?\d|\s?(?:%|[×x·]|[a-z]*illion))
    | (?:\b(?:chapters?|exercises?|figures?|sections?|tables?|equations?|python|pytorch|torch
      |torchvision|cuda|version|by-sa|cells?|fc|(?<!one\ )seeds?|blocks?)|§)
      \s*\(?\d+(?:\.\d+)*
      (?:(?:,|,?\ and|\ or|\ to|–)\s*\d+(?:\.\d+)*(?![\d%]|\.\d|\s[%a-zA-Z]*illion))*
    | (?:learning\ rate|one\ cycle|momentum|weight\ decay|label\ smoothing)
      (?:\ of|\ to)?\s\d[\d.]*\d
    | <summary>Hint\s\d+ | ^\#+\s*\d+(?:\.\d+)*\.?\s | (?<=\[)\d(?:\.\d)?(?=[:\]]|\s(?-i:[A-Z]))
    | (?<=^\|)\s*\*{0,2}\d(?:\.\d)?\.?\s(?=(?-i:[A-Z])|\|)
    | ^\s*\*{0,2}\d+\.(?=\s|\*|$)
    | (?:about|around)\s\d+\s(?:seconds|minutes|s|min)\b""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
PRODUCT = re.compile(r"(?<![\w.])\d+(?:\s?[×x]\s?\d+)+(?![\w.]*\d)")  # shapes: 3×224×224, 4096×1000
# Three integers and more in a row: 1, 1, 2, 2 and 2; 1 + 1 + 2; 2-2-2.
SEQUENCE = re.compile(
    r"(?<![\w.·×+−-])(?<![·×+−-] )"
    r"\d+(?:(?:,? and |, (?:then )?| ?\+ ?|-)\d+(?![\w%]|\.\d)){2,}+(?! ?[·×%=*^])"
)
SIDES = (28, 32, 56, 84, 224)  # of the images, on every page
OF_SIDE = re.compile(
    r"(?:\b(?:at|from|to|than|between|and|or|beats?|below|above)|^|[,:(])\s*$", re.IGNORECASE
)
KERNELS_AND_LAST_MAPS = (1, 3, 5, 7, 11)
CLASSES = 10
LATEX = {
    r"_(?:\\(?:text|mathrm))?(?:\{[^{}]*\}|\w)": "",
    r"\\(?:cdot|ast)(?![a-z])\s?": "·", r"\\times(?![a-z])\s?": "×", r"\\approx\b": "≈",
    r"\\(?:text|mathrm|mathbf)\{([^{}]*)\}": r"\1",
    r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}": r"(\1)/(\2)", r"\\sqrt\{([^{}]*)\}": r"√(\1)",
    r"\\lfloor\b": "⌊", r"\\rfloor\b": "⌋", r"\\(?:left|right|big|Big)(?![a-z])": "",
    r"(?<=\d)~(?=\w)": " ", r"\\,(?!\d{3})": " ", r"\\%": "%",
    r"\^\{(\d+)\}": r"^\1", "²": "^2", "³": "^3", "−": "-",
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
    head: str = ""  # the table's first row


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
                yield Sentence(row, links + links_in(row), rows[0])
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
    text = plain(sentence.text)
    if pattern is SEQUENCE:  # a table may have one as a row: | kernel | 11 | 5 | 3 |
        text = re.sub(r"(?<=\| )(\d+) \|(?= \d+ \|)", r"\1,", text)
    return [tuple(map(int, re.findall(r"\d+", match[0]))) for match in pattern.finditer(text)]


def role(number):
    """How a formula uses a number n: "+n", "n/", "^n", or "·n", in a sum "+·n" or "·n-".

    The sign that binds it most counts.
    """
    before, after = number.before.rstrip(" "), number.after.lstrip(" ")
    while before.endswith(("(", "{")) and after.startswith((")", "}")):
        before, after = before[:-1], after[1:]
    after = re.sub("^[(√]", "·", after)  # 2(n + m)
    for signs in ("^", "·×*/", "+-"):
        for sign, use in ((before[-1:], "{}n"), (after[:1], "n{}")):
            if sign and sign in "·×*":
                return sum_of(before, after)
            if sign and sign in signs:
                return "+n" if sign == "+" else use.format(sign)
    return ""


def sum_of(before, after):
    """The use of a factor: of 2 in `h + 2p - k` it is "+·n", in `2p` alone "·n"."""
    if before.endswith(("+", "-")):
        return f"{before[-1]}·n"
    later = re.match(r"[^+\-=()]*([+-])", after)
    return "·n" if later is None else "+·n" if later[1] == "+" else "·n-"


def cells(text, head):
    """Yields (cell, units that name its column, else its row) of a table's row, or all the text."""
    cells = text.split("|") if head else [text]
    for cell, column in zip(cells, head.split("|"), strict=True):
        yield cell, units_named(column) or units_named(cells[1] if head else "")


def claims(sentence):
    """The numbers that need a proof."""
    text = SEQUENCE.sub(" ", PRODUCT.sub(" ", plain(sentence.text)))
    for formula in FORMULA.findall(text):
        value = worked(formula)
        if value is not None and value.is_integer():
            yield Number(formula.strip("$ ."), value, 1, source="part")
            text = text.replace(formula, " ", 1)
    for side in (side for formula in FORMULA.findall(text) for side in formula.split("=")):
        if VARIABLE.search(side):
            constants = (replace(number, role=role(number)) for number in numbers(side))
            yield from (n for n in constants if n.value != 1 or n.role not in ("+n", "-n", "n-"))
            text = text.replace(side, " ", 1)
    for part, column in cells(text, sentence.head):
        for number in numbers(part, column):
            is_side = number.value in SIDES and OF_SIDE.search(number.before)
            if number.unit or not is_side and number.value != CLASSES:
                yield number


# --- Hand calculation -------------------------------------------------------------------------

ARITHMETIC = r"[\d.()⌊⌋√·×*+\-/^ ]+"


def evaluate(python):
    """The value of Python's expression of numbers alone, or None where it is something else."""
    if not re.fullmatch(r"(?:int|sqrt)?[\d(](?:[\d.()*+\-/ ]|int|sqrt)*", python):
        return None
    if len(python) > 100 or re.search(r"\*\*(?! *\d\d?(?! *\*\*)(?!\d))", python):
        return None  # a power that may be huge
    try:
        return float(eval(python, {"__builtins__": {}, "int": int, "sqrt": math.sqrt}))
    except (SyntaxError, TypeError, ZeroDivisionError, ValueError):
        return None


def in_python(expression):
    signs = {"·": "*", "×": "*", "^": "**", "⌊": "int(", "⌋": ")", "√": "sqrt"}
    return "".join(signs.get(sign, sign) for sign in expression.strip(" .$"))


def parts(python):
    """The values of the parts of an expression: of 2·3 + 1 those of 2·3 and of all."""
    operations = (node for node in ast.walk(ast.parse(python)) if isinstance(node, ast.BinOp))
    return [value for node in operations if (value := evaluate(ast.unparse(node))) is not None]


def worked(expression):
    """The value of an expression that has something to work out."""
    has_sign = re.search(r"[\d)⌋]\s*[·×*+/^-]|√", expression)
    return evaluate(in_python(expression)) if has_sign else None


def calculations(text):
    """Yields (expression, its value, the number said to equal it) for each `3·3·64 = 576`."""
    text = plain(text).replace("$", "")
    for sign in re.finditer(r"[=≈]", text):
        before, after = text[: sign.start()], text[sign.end() :]
        left = re.search(rf"(?<![\w,]){ARITHMETIC}$", before)
        right = re.match(ARITHMETIC, after)
        if not (left and right):
            continue
        left, right = left[0].strip(), right[0].strip(" .")
        value, other = worked(left), worked(right)
        if value is not None and other is not None:
            yield left, value, Number(right, other, 1e-9)
        elif value is not None or other is not None:
            result = next(numbers(after if other is None else left), None)
            if result and not result.before.strip():
                yield (left, value, result) if other is None else (right, other, result)
