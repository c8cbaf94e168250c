"""The guard on numbers: what prose claims must round what a cell prints, or be cited.

Prose rounds as people do: 128.8 million for 128,807,306, 46 MiB for 48,367,616 bytes, 93 % for
0.928. `written.py` finds the numbers of a text. Those of a page's prose are its claims; those that
its cells print, or hold in code that computes, are its proofs. A claim is proven in its own
section, by a notebook that its sentence links to, or, if it is long, by its page. `unproven`
compares the two and returns its complaints.

Left out are code spans, years, versions, the 1 of a formula, ten classes, the sides of the images,
and what numbers cells, figures, seeds and FC layers. `labels.py` checks the other numbers that name
something.
"""

import ast
import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, pairwise
from pathlib import Path

import nbformat
import torch
from bs4 import BeautifulSoup
from IPython.core.inputtransformer2 import TransformerManager
from written import (
    ABOUT,
    ABOVE,
    BELOW,
    KERNELS_AND_LAST_MAPS,
    PRODUCT,
    SEQUENCE,
    SIDES,
    UNITS,
    calculations,
    claims,
    integers,
    links_in,
    numbers,
    sentences,
    units_named,
)

import d2l_utils as d2l

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"

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
    operations = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp)]
    operands = {side for node in operations for side in (node.left, node.right)}
    for node in ast.walk(tree):
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        if number and node not in bare:
            for found in numbers(repr(node.value), printed=False):
                yield replace(found, operand=node in operands)


NAMED = re.compile(r"(?<![\w-])[a-z]+-?(\d+)\b")  # what a printed name says: r56, five-56


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


def proofs_of(cells):
    """The numbers that cells print or compute with."""
    found = []
    for cell in cells:
        if cell.cell_type == "code":
            found += code_numbers(cell)
            for text in printed_texts(cell):
                found += numbers(text, units_named(text))
                found += numbers(" ".join(NAMED.findall(text)), printed=False)
    # Of what stands around a number only the next one matters, for shapes such as 25088×4096.
    following = [*(number.text for number in found), ""][1:]
    pairs = zip(found, following, strict=True)
    return frozenset(replace(number, before="", after=after) for number, after in pairs)


def in_order(cells):
    """All digits of code and outputs in their order, in which sequences are looked up."""
    texts = [
        text
        for cell in cells
        if cell.cell_type == "code"
        for text in (cell.source, *printed_texts(cell))
    ]
    return f" {' '.join(re.findall(r'[0-9]+', ' '.join(texts)))} "


@dataclass(frozen=True)
class Evidence:
    """What may prove a sentence: what stands near it proves all, the page what is longer."""

    near: frozenset = frozenset()
    page: frozenset = frozenset()
    rows: str = ""

    def __or__(self, proofs):
        return replace(self, near=self.near | proofs)


@cache
def proofs_at(path):
    return proofs_of(nbformat.read(path, as_version=4).cells) if path.is_file() else frozenset()


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
    found = [
        (expression, result)
        for sentence in sentences(markdown)
        for expression, value, result in calculations(sentence.text)
        if is_right(value, result)
    ]
    return frozenset(
        replace(number, unit=None, before="", after="", printed=False, operand=True)
        for expression, result in found
        for number in (*numbers(re.sub(r"[·×*/^⌊⌋²³]", " ", expression)), result)
    )


# --- The guard --------------------------------------------------------------------------------


def size(unit):
    return UNITS[unit][1] if unit else 1


@cache
def architectures():
    """The numbers of the networks that the book is about, in the order in which they have them."""
    convs, alexnet = [], d2l.AlexNet()
    for arch in (*d2l.VGG_ARCHS.values(), d2l.VGG_NARROW):
        convs += [[n if isinstance(n, int) else len(n) for n, _ in arch], [c for _, c in arch]]
    layers = [m for m in alexnet.modules() if isinstance(m, torch.nn.Conv2d)]
    convs += [[m.kernel_size[0] for m in layers], [m.out_channels for m in layers]]
    return " | ".join(" ".join(map(str, numbers)) for numbers in convs)


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


MORE = re.compile(r"\s?%\s(?:more|higher|longer|slower|larger|extra|above)")
LESS = re.compile(r"\s?%\s(?:less|fewer|lower|shorter|faster|smaller|below)")


def proves(proof, claim, unit):
    """Says whether the proof rounds to the claim, read with this unit."""
    kind, factor = measures(unit), size(unit)
    if claim.runs and claim.runs != proof.runs:
        return False
    is_fraction = proof.unit is None and proof.step <= 0.01
    if kind is None:
        if proof.unit == "%" and claim.step < 1:
            return near(claim, proof.value / 100, claim.step)
        rounds = proof.step == 1 or claim.step < 1 or hedge(claim.before) is ABOUT
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


def unproven_shapes(sentence, evidence):
    """Complains of sides that no cell knows, and of sides that differ and stand nowhere so."""
    for shape in integers(PRODUCT, sentence):
        *_, height, width = shape
        proofs = evidence.near | evidence.page if max(shape) > 12 else evidence.near
        known = {int(proof.value) for proof in proofs if proof.step == 1}
        known |= {*SIDES, *KERNELS_AND_LAST_MAPS}
        beside = f" {height} {width} " in evidence.rows or any(
            (proof.text, proof.after) == (str(height), str(width)) for proof in evidence.near
        )
        square = height == width and (beside or known.issuperset(shape))
        if not (square or beside and max(shape) > 12):
            yield f"{'×'.join(map(str, shape))}: no cell prints or computes with it"


def unproven_sequences(sentence, evidence):
    """Complains of integers in a row that stand nowhere so, are of no network and no halving."""
    for sequence in integers(SEQUENCE, sentence):
        halved = all(b == a // 2 for a, b in pairwise(sequence))
        stands = f" {' '.join(map(str, sequence))} " in f"{evidence.rows} {architectures()} "
        if not halved and not stands:
            yield f"{', '.join(map(str, sequence))}: no cell has it in this order"


def proofs_for(claim, evidence):
    """What stands near proves any claim, the whole page one of four digits and more.

    A formula's constant is an operand in code or in a calculation.
    """
    if claim.operand:
        return (proof for proof in evidence.page if proof.operand)
    is_long = len(claim.text.replace(".", "").lstrip("0")) > 3
    return chain(evidence.near, evidence.page if is_long else ())


def unproven_in(sentence, evidence):
    """The complaints about one sentence."""
    for expression, value, result in calculations(sentence.text):
        if not is_right(value, result):
            yield f"{expression} is {value:,.6g}, not {result.text}"
    yield from unproven_shapes(sentence, evidence)
    yield from unproven_sequences(sentence, evidence)
    found = list(claims(sentence))
    for place, claim in enumerate(found):
        # In `7 GiB against 0.9` the second number has the unit of the first.
        before = [number.unit for number in found[:place] if number.unit][-1:]
        after = [number.unit for number in found[place:] if number.unit][:1]
        near_by = {None, *before, *after, *sentence.column}
        readings = [claim.unit] if claim.unit else near_by
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
    links = links_in("\n\n".join(prose_of(nbformat.read(path, as_version=4).cells)))
    studies = [p for p in linked_notebooks(links, path.parent) if p.parent.name == "studies"]
    return frozenset().union(*map(proofs_at, [path, *studies]))


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
            linked = linked_proofs(sentence.links, folder)
            complaints += unproven_in(sentence, evidence | linked)
    return complaints


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
        complaints += unproven_in(sentence, Evidence(own | (linked or everything)))
    return complaints
