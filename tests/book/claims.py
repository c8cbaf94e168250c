"""The guard on numbers: what prose claims must round what a cell prints, or be cited.

Prose rounds as people do: 128.8 million for 128,807,306, 46 MiB for 48,367,616 bytes, 93 % for
0.928. `written.py` finds the numbers of a text. Those of a page's prose are its claims; those that
its cells print, or hold in code that computes, are its proofs. A proof is of the claim's kind: a
share, bytes, a ratio, a number without a unit, an operand of a formula. It stands in the claim's
own section or in that of a notebook to which its sentence links; for a long claim anywhere there.
`unproven` compares the two and returns its complaints.

Left out are code spans, years, versions, the 1 of a formula, ten classes, the sides of the images,
and what numbers cells, figures, seeds and FC layers. `labels.py` checks the other numbers that name
something.
"""

import ast
import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache, reduce
from itertools import chain, pairwise, starmap
from operator import or_
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from IPython.core.inputtransformer2 import TransformerManager
from torch import nn
from written import (
    ABOUT,
    ABOVE,
    BELOW,
    KERNELS_AND_LAST_MAPS,
    PRODUCT,
    SEPARATOR,
    SEQUENCE,
    SIDES,
    UNITS,
    Number,
    calculations,
    cells,
    claims,
    evaluate,
    in_python,
    integers,
    links_in,
    numbers,
    parts,
    plain,
    role,
    sentences,
    units_named,
)

import d2l_utils as d2l

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"

# --- What a page proves -----------------------------------------------------------------------


ROLES = {  # of what stands left and right of an operator, as `written.role` has it
    ast.Add: ("+n", "+n"),
    ast.Sub: ("n-", "-n"),
    ast.Mult: ("·n", "·n"),
    ast.Div: ("n/", "/n"),
    ast.FloorDiv: ("n/", "/n"),
    ast.Pow: ("n^", "^n"),
}


def factors(node):
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [*factors(node.left), *factors(node.right)]
    return [node]


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
    roles = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and type(node.op) in ROLES:
            value = evaluate(ast.unparse(node))
            if value is None:
                for side, use in zip((node.left, node.right), ROLES[type(node.op)], strict=True):
                    roles.setdefault(side, use)
                    if isinstance(node.op, ast.Add | ast.Sub) and factors(side) != [side]:
                        roles |= dict.fromkeys(factors(side), use.replace("n", "·n"))
            else:  # of 9 * 64 * 128
                yield Number(f"{value:.0f}", value, 1, source="part")
            if isinstance(node.op, ast.Mult) and ast.dump(node.left) == ast.dump(node.right):
                yield Number("2", 2, 1, source="code", role="^n")  # k * k
    for node in ast.walk(tree):
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        if number and node not in bare:
            for found in numbers(repr(node.value), source="code"):
                yield replace(found, role=roles.get(node, ""))


def printed_texts(cell):
    """Yields (text, what heads it) for each line and each cell of a table that is printed."""
    for output in cell.outputs:
        data = {"text/plain": output.get("text", "")} | output.get("data", {})
        if "text/html" in data:
            yield from cells_of(BeautifulSoup(data["text/html"], "html.parser"))
        else:
            yield from ((line, []) for line in data["text/plain"].splitlines())


def cells_of(table):
    """Yields (text, [head of the column, of the row, of the table]) for each cell of a table."""
    heads, labels = [[]], []
    for row in table("tr"):
        texts = [
            c.get_text(" ") for c in row(("th", "td")) for _ in range(int(c.get("colspan", 1)))
        ]
        if row.find_parent("thead"):
            heads.append(texts)
            yield from ((text, [text, texts[0]]) for text in texts)
            continue
        depth = len(heads[-1]) - len(row("td"))  # of the index; one that spans rows stands once
        labels = labels[: depth - len(row("th"))] + texts[: len(row("th"))]
        texts = labels + texts[len(row("th")) :]
        columns = [" ".join(column) for column in zip(*heads[1:], strict=True)]
        corner = " ".join(columns[:depth])
        for text, column in zip(texts, columns, strict=True):
            yield text, [column, " ".join(labels), corner]


def proofs_of(cells):
    """The numbers that cells print or compute with."""
    found = []
    for cell in cells:
        if cell.cell_type == "code":
            found += code_numbers(cell)
            for text, heads in printed_texts(cell):
                named = filter(None, map(units_named, heads or [text]))
                found += numbers(text, next(named, frozenset()))
                if not heads:  # in a line the unit of one number need not be that of another
                    found += numbers(text)
    return frozenset(replace(number, before="", after="") for number in found)


def in_order(cells):
    """The numbers of each line of code and outputs in their order, to look up sequences in."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    texts = [cell.source for cell in code]
    for output in (output for cell in code for output in cell.outputs):
        texts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    lines = SEPARATOR.sub("", "\n".join(texts)).splitlines()
    found = (re.findall(r"(?<![\w.])\d+(?:\.\d+)?", line) for line in lines)
    return " | ".join(f" {' '.join(line)} " for line in found)


@dataclass(frozen=True)
class Evidence:
    """What may prove a sentence: what stands near it proves all, the page what is longer."""

    near: frozenset = frozenset()
    page: frozenset = frozenset()
    rows: str = ""

    def __or__(self, other):
        both = self.near | other.near, self.page | other.page
        return Evidence(*both, f"{self.rows} | {other.rows}")


@cache
def cited():
    """Returns (number, source) for each entry of book/cited.toml."""
    path = BOOK / "cited.toml"
    entries = tomllib.loads(path.read_text("utf-8")).get("cited", []) if path.exists() else []
    return tuple((n, e["source"]) for e in entries for n in numbers(str(e["value"])))


def is_right(value, result):
    return any(near(result, value, result.step * factor) for factor in (1, size(result.unit)))


def worked_out(markdown):
    """The numbers of a text's calculations that are right, and so prove themselves."""
    proofs = []
    for expression, value, result in chain.from_iterable(
        calculations(sentence.text) for sentence in sentences(markdown)
    ):
        if is_right(value, result):
            values = parts(in_python(expression))
            proofs += (Number(f"{part:.0f}", part, 1, source="part") for part in values)
            proven = [result, *numbers(result.text)]
            if value == result.value and "⌊" not in expression:  # no other operand would be right
                proven += numbers(expression)
            proofs += (replace(number, source="text") for number in proven)
    return frozenset(replace(number, unit=None, before="", after="") for number in proofs)


# --- The guard --------------------------------------------------------------------------------


def size(unit):
    return UNITS[unit][1] if unit else 1


@cache
def architectures():
    """The numbers of the networks that the book is about, in the order in which they have them."""
    rows, layers, channels, sides = [], [], 0, [224]
    for arch in (*d2l.VGG_ARCHS.values(), d2l.VGG_NARROW):
        rows += [[n if isinstance(n, int) else len(n) for n, _ in arch], [c for _, c in arch]]
    for layer in d2l.AlexNet().modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            channels = getattr(layer, "out_channels", channels)
            sizes = layer.kernel_size, layer.stride, layer.padding
            kernel, stride, padding = (s if isinstance(s, int) else s[0] for s in sizes)
            layers.append((kernel, stride, padding, channels))
            sides.append((sides[-1] + 2 * padding - kernel) // stride + 1)
    convs = [layers[i] for i in (0, 2, 4, 5, 6)]
    rows += [dict.fromkeys(sides), *zip(*layers, strict=True), *zip(*convs, strict=True)]
    return " | ".join(" ".join(map(str, row)) for row in rows)


PURE = ("ratio", "points")  # may be printed as a decimal alone, where none is named


def measures(unit):
    return UNITS[unit][0] if unit else None


@cache
def hedge(before):
    """Which of the patterns for "about", "more than" and "less than" the words end with."""
    return next((pattern for pattern in (ABOVE, BELOW, ABOUT) if pattern.search(before)), None)


def near(claim, value, step):
    """Says whether the claim, in this step's unit, rounds the value or bounds it closely."""
    said = claim.value * step / claim.step
    hedged = hedge(claim.before)
    if hedged is ABOVE:
        return said <= value <= 1.2 * said
    if hedged is BELOW:
        return 0.8 * said <= value <= said
    if hedged is ABOUT:
        if claim.step == 1:  # about 4,500: as many digits as stand there
            zeros = len(claim.text) - len(claim.text.rstrip("0"))
            step *= 10 ** min(zeros, max(len(claim.text) - 2, 0))
    elif claim.unit is None and len(claim.text.replace(".", "").lstrip("0")) < 2:
        step = 0  # 0.1 alone is too short to be a rounding
    return abs(said - value) <= min(step / 2, 0.1 * value) * (1 + 1e-9) + 1e-12


def proves(proof, claim, unit):
    """Says whether the proof, a number of the same kind, rounds to the claim in this unit."""
    if claim.runs and claim.runs != proof.runs:
        return False
    kind, step = measures(unit), claim.step * size(unit)
    units = {proof.unit} if proof.unit else proof.column or {None}
    if kind is None:
        rounds = proof.step == 1 or claim.step < 1 or hedge(claim.before) is ABOUT
        is_bare = {measures(unit) for unit in units} <= {None, "ratio", "share"}
        return bool(is_bare and rounds) and near(claim, proof.value, step)
    if proof.source != "output":
        return False
    if None in units:  # a count, or what has no unit: 0.93 is 93 %
        of_kind = {"count": proof.step == 1, "share": proof.step <= 0.01}
        return of_kind.get(kind, kind in PURE and proof.step < 1) and near(claim, proof.value, step)
    same = (unit for unit in units if measures(unit) == kind)
    return any(near(claim, proof.value * size(unit), step) for unit in same)


def unproven_shapes(sentence, evidence):
    """Complains of sides that no cell knows, and of sides that differ and stand nowhere so."""
    for shape in integers(PRODUCT, sentence):
        proofs = evidence.near | evidence.page if max(shape) > 12 else evidence.near
        known = {int(proof.value) for proof in proofs if proof.step == 1}
        known |= {*SIDES, *KERNELS_AND_LAST_MAPS}
        stands = max(shape) > 12 and f" {' '.join(map(str, shape))} " in evidence.rows
        square = len(shape) == 2 and shape[0] == shape[1] and shape[0] in known
        if not (stands or square):
            yield f"{'×'.join(map(str, shape))}: no cell prints or computes with it"


def unproven_sequences(sentence, evidence):
    """Complains of integers in a row that stand nowhere so, are of no network and no halving."""
    for sequence in integers(SEQUENCE, sentence):
        halved = all(b == a // 2 for a, b in pairwise(sequence))
        stands = f" {' '.join(map(str, sequence))} " in f"{evidence.rows} {architectures()} "
        if not halved and not stands:
            yield f"{', '.join(map(str, sequence))}: no cell has it in this order"


def wrong_ratios(sentence):
    """Complains of a table's ratio that is not the one of the two numbers before it."""
    heads = [head.strip() for head in sentence.head.split("|")]
    if "ratio" in heads and sentence.text != sentence.head:
        found = [list(numbers(cell)) for cell, _ in cells(plain(sentence.text), sentence.head)]
        *_, first, second, ratio = found[: heads.index("ratio") + 1]
        if first and second and ratio:
            (a, *_), (b, *_), (said, *_) = first, second, ratio
            most = (a.value + a.step / 2) / (b.value - b.step / 2) + said.step / 2
            least = (a.value - a.step / 2) / (b.value + b.step / 2) - said.step / 2
            if not least <= said.value <= most:
                yield f"{a.text} / {b.text} is {a.value / b.value:.3g}, not {said.text}"


def proofs_for(claim, evidence):
    """What stands near proves any claim, the whole page one of four digits and more.

    A formula's constant is an operand in code or in a calculation.
    """
    if claim.role:
        proofs = chain(evidence.near, (proof for proof in evidence.page if proof.source == "code"))
        return [p for p in proofs if claim.role in (p.role, p.role.strip("+-"))]
    digits = f"{claim.value:.0f}" if claim.source == "part" else claim.text.replace(".", "")
    is_long = len(digits.lstrip("0")) > 3
    proofs = chain(evidence.near, evidence.page if is_long or role(claim) else ())
    if claim.source == "part":
        return [proof for proof in proofs if proof.source in ("part", "output")]
    proofs = [proof for proof in proofs if proof.source != "part"]
    named = [proof for proof in proofs if claim.unit in (proof.unit, *proof.column)]
    return named if named and measures(claim.unit) in PURE else proofs


def unproven_in(sentence, evidence):
    """The complaints about one sentence."""
    for expression, value, result in calculations(sentence.text):
        if not is_right(value, result):
            yield f"{expression} is {value:,.6g}, not {result.text}"
    yield from unproven_shapes(sentence, evidence)
    yield from unproven_sequences(sentence, evidence)
    yield from wrong_ratios(sentence)
    found = list(claims(sentence))
    for place, claim in enumerate(found):
        # In `7 GiB against 0.9` the second number has the unit of the first.
        before = [number.unit for number in found[:place] if number.unit][-1:]
        after = [number.unit for number in found[place:] if number.unit][:1]
        readings = [claim.unit] if claim.unit else claim.column or {None, *before, *after}
        proofs = proofs_for(claim, evidence)
        if any(proves(proof, claim, unit) for proof in proofs for unit in readings):
            continue
        sources = [
            source for number, source in cited() if any(proves(number, claim, u) for u in readings)
        ]
        if any(link.startswith(source) for source in sources for link in sentence.links):
            continue
        said = " ".join(sentence.text.split())[:70]
        why = f"it is cited: link {sources[0]}" if sources else "no cell prints what rounds to it"
        if any(proves(proof, claim, unit) for proof in evidence.page for unit in readings):
            why = "no cell of this section, or of one that the link names, prints what rounds to it"
        yield f"{claim.text}{' ' + claim.unit if claim.unit else ''} in {said!r}: {why}"


def linked_notebooks(links, folder):
    """Yields (notebook, anchor) for each link to one; a card of the first page has no ending."""
    for link in links:
        name, _, anchor = link.partition("#")
        path = (folder / name).resolve()
        path = path if path.suffix else path.with_suffix(".ipynb")
        if not link.startswith("http") and path.suffix == ".ipynb" and path.is_file():
            yield path, anchor


@cache
def evidence_at(path, anchor=""):
    """What a notebook proves from afar, or its section of that anchor as if it stood here."""
    sections = sections_of(nbformat.read(path, as_version=4))
    chosen = [section for section in sections if not anchor or anchor in anchors(section)]
    cells = list(chain.from_iterable(chosen))
    proofs = proofs_of(cells)
    return Evidence(proofs if anchor else frozenset(), proofs, in_order(cells))


def anchors(cells):
    """The anchors that the built book gives to the headings of cells."""
    headings = re.findall(r"^#+ (.+)", "\n".join(prose_of(cells)), re.MULTILINE)
    return [
        re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
    ]


def linked(links, folder):
    """What the notebooks prove that a sentence links to."""
    return reduce(or_, starmap(evidence_at, linked_notebooks(links, folder)), Evidence())


@cache
def with_studies(path):
    """What a notebook proves together with the studies that it links to."""
    links = links_in("\n\n".join(prose_of(nbformat.read(path, as_version=4).cells)))
    found = linked_notebooks(links, path.parent)
    studies = {path for path, _ in found if path.parent.name == "studies"}
    return reduce(or_, map(evidence_at, [path, *sorted(studies)]))


def prose_of(cells):
    """The texts that a reader reads: Markdown, captions and alt texts."""
    for cell in cells:
        if cell.cell_type == "markdown":
            yield cell.source
        shown = cell.metadata.get("mystnb", {})
        yield shown.get("figure", {}).get("caption", "")
        yield shown.get("image", {}).get("alt", "")


def sections_of(nb):
    """The cells of a notebook by section; a cell with several headings is cut at each."""
    sections = [[]]
    for cell in nb.cells:
        parts = [cell]
        if cell.cell_type == "markdown":
            texts = re.split(r"^(?=## )", cell.source, flags=re.MULTILINE)
            parts = [nbformat.from_dict(cell | {"source": text}) for text in texts]
        sections[-1].append(parts[0])
        sections += [[part] for part in parts[1:]]
    return sections


def code_of(nb):
    """What the code of each section proves, and the page's numbers in their order."""
    return [proofs_of(section) for section in sections_of(nb)], in_order(nb.cells)


def unproven(nb, folder=BOOK, code=None):
    """The guard of a notebook: complaints about numbers in its prose that nothing proves.

    A number is proven in its own section, a long one on its page. The answer at the head of the
    page and the one to hand in are proven by the whole page.
    """
    by_section, rows = code or code_of(nb)
    page = frozenset().union(*by_section, worked_out("\n\n".join(prose_of(nb.cells))))
    complaints = []
    for section, proofs in zip(sections_of(nb), by_section, strict=True):
        texts = list(prose_of(section))
        is_answer = not texts[0].startswith("## ") or texts[0].startswith("## Hand in")
        near = page if is_answer else proofs | worked_out("\n\n".join(texts))
        evidence = Evidence(near, page, rows)
        for sentence in chain.from_iterable(map(sentences, texts)):
            complaints += unproven_in(sentence, evidence | linked(sentence.links, folder))
    return complaints


def unproven_page(markdown, folder, notebooks):
    """The guard of a Markdown page.

    A sentence, a row or a card may claim what the notebooks prove that it links to, and their
    studies; where it links to none, what any notebook proves.
    """
    everything = reduce(or_, map(evidence_at, notebooks), Evidence())
    own = worked_out(markdown)
    complaints = []
    for sentence in sentences(markdown):
        paths = sorted({path for path, _ in linked_notebooks(sentence.links, folder)})
        proofs = reduce(or_, map(with_studies, paths)) if paths else everything
        complaints += unproven_in(sentence, replace(proofs, near=own | proofs.page))
    return complaints
