"""Plants wrong numbers in the pages and counts how many the checks notice: `make mutants`.

In prose, captions and tables a number is changed and the guard on numbers asked; in stored outputs
one digit or one picture of each cell is changed, and nbval runs a copy of the notebook. The same
seed plants the same numbers. What survives is listed with its reason: a rule that leaves such
numbers out, or chance, where the page proves the wrong number too.
"""

import argparse
import base64
import io
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import claims
import nbformat
from PIL import Image
from test_notebooks import NOTEBOOKS, ROOT, code_cells, name_of, read

# Where no number of a reader's stands: code, targets of links, HTML.
ASIDE = re.compile(
    r"```.*?```|`[^`\n]+`|\]\([^)]*\)|<[^>]*>|https?://\S+|^:[\w-]+:.*?$", re.DOTALL | re.MULTILINE
)
TOKEN = re.compile(r"(?<![\w.,}])(?<![A-Za-z]-)\d+(?:(?:,|\{,\})\d{3})*(?:\.\d+)?(?![\w.]*\d)")


def slots(nb):
    """Yields (kind, text, setter) for each text of a notebook that a reader reads."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            yield "prose", cell.source, lambda text, cell=cell: cell.update(source=text)
        shown = cell.metadata.get("mystnb", {})
        for part, key in (("figure", "caption"), ("image", "alt")):
            if key in shown.get(part, {}):
                holder = shown[part]
                yield key, holder[key], lambda text, h=holder, k=key: h.update({k: text})


def places(text):
    aside = [match.span() for match in ASIDE.finditer(text)]
    for match in TOKEN.finditer(text):
        if not any(start <= match.start() < end for start, end in aside):
            yield match.span()


def altered(number, rng):
    """The number with another digit at one place, the last one as likely as the first."""
    digits = [i for i, sign in enumerate(number) if sign.isdigit()]
    place = rng.choice(digits)
    others = [d for d in "123456789" if d != number[place]]
    return number[:place] + rng.choice(others) + number[place + 1 :]


def is_claim(text, start, end):
    """Says whether the guard looks at the number, by whether an absurd one would be noticed."""
    absurd = text[:start] + re.sub(r"\d", "7", text[start:end]) + text[end:]
    nowhere = [c for s in claims.sentences(absurd) for c in claims.unproven_in(s, frozenset())]
    before = [c for s in claims.sentences(text) for c in claims.unproven_in(s, frozenset())]
    removed = text[:start] + "one" + text[end:]
    without = [c for s in claims.sentences(removed) for c in claims.unproven_in(s, frozenset())]
    return max(len(nowhere), len(before)) > len(without)


def in_notebooks(rng, count):
    """Plants numbers in the notebooks; yields (caught, kind, reason, where)."""
    pages = {path: read(path) for path in NOTEBOOKS}
    everywhere = [
        (path, number, span)
        for path, nb in pages.items()
        for number, (_, text, _) in enumerate(slots(nb))
        for span in places(text)
    ]
    for path, number, (start, end) in rng.sample(everywhere, min(count, len(everywhere))):
        nb = pages[path]
        kind, text, put = list(slots(nb))[number]
        line = text[text.rfind("\n", 0, start) + 1 :].lstrip()
        kind = "table" if kind == "prose" and line.startswith("|") else kind
        wrong = altered(text[start:end], rng)
        spoilt = text[:start] + wrong + text[end:]
        right = Counter(complaints(text, nb, path))
        planted = Counter(complaints(spoilt, nb, path))
        reason = "chance" if is_claim(text, start, end) else "left out"
        where = " ".join(text[max(0, start - 40) : end + 30].split())
        yield planted != right, kind, reason, f"{path.stem}: {wrong} in '{where}'"


def complaints(text, nb, path):
    """The guard's complaints about one text of a page, without the sentence that each quotes."""
    own = claims.proofs_of(nb) | claims.worked_out(text)
    return [
        re.sub(r" in '.*?':", ":", complaint, flags=re.DOTALL)
        for sentence in claims.sentences(text)
        for complaint in claims.unproven_in(
            sentence, own | claims.linked_proofs(sentence.links, path.parent)
        )
    ]


# --- Stored outputs ---------------------------------------------------------------------------


def spoil_outputs(nb, rng):
    """Changes one digit or one picture in each cell that stores any; returns the cells' numbers."""
    spoilt = {}
    for number, cell in enumerate(code_cells(nb)):
        for output in cell.outputs:
            stored = output if output.output_type == "stream" else output.data
            keys = [key for key in ("text", "text/html", "text/plain") if key in stored]
            if "image/png" in stored:
                stored["image/png"] = with_a_black_spot(stored["image/png"])
                spoilt[number] = "picture"
                break
            spans = [(k, m.start()) for k in keys for m in re.finditer(r"\d", stored[k])]
            if spans:
                key, place = rng.choice(spans)
                digit = str((int(stored[key][place]) + rng.randint(1, 9)) % 10)
                stored[key] = stored[key][:place] + digit + stored[key][place + 1 :]
                spoilt[number] = "printed table" if key == "text/html" else "printed text"
                break
    return spoilt


def with_a_black_spot(png):
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    software = picture.info.get("Software", "")
    picture = picture.convert("RGB")
    x, y = picture.width // 3, picture.height // 3
    pixel = picture.getpixel((x, y))
    picture.paste(tuple(255 - value for value in pixel), (x, y, x + 12, y + 12))
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", software)
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=info)
    return base64.b64encode(file.getvalue()).decode()


def in_outputs(rng, paths):
    """Runs nbval on spoilt copies of notebooks; yields (caught, kind, reason, where)."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("pyproject.toml", "conftest.py", "tests/nbval_sanitize.cfg"):
            (copy / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
        shutil.copytree(ROOT / "book", copy / "book", ignore=shutil.ignore_patterns(".*"))
        for path in paths:
            nb = read(path)
            spoilt = spoil_outputs(nb, rng)
            name = f"{name_of(path)}.ipynb"
            nbformat.write(nb, copy / name)
            command = [sys.executable, "-m", "pytest", "--nbval", "-q", "--color=no", name]
            run = subprocess.run(command, cwd=copy, capture_output=True, encoding="utf-8")
            failed = {
                int(n) for n in re.findall(r"^FAILED \S+::Cell (\d+)", run.stdout, re.MULTILINE)
            }
            for number, kind in spoilt.items():
                yield number in failed, kind, "chance", f"{path.stem}: cell {number}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="numbers to plant in prose")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--run",
        nargs="*",
        default=["parameters", "flops", "vgg16_vgg19"],
        help="notebooks to spoil and run",
    )
    options = parser.parse_args()
    rng = random.Random(options.seed)

    planted = list(in_notebooks(rng, options.count))
    planted += in_outputs(rng, [path for path in NOTEBOOKS if path.stem in options.run])
    for caught, kind, reason, where in planted:
        if not caught:
            print(f"survived ({kind}, {reason}): {where}")
    verdicts = Counter((kind, "caught" if caught else why) for caught, kind, why, _ in planted)
    for name in sorted({kind for kind, _ in verdicts}):
        counts = {what: verdicts[name, what] for what in ("caught", "left out", "chance")}
        said = ", ".join(f"{number} {what}" for what, number in counts.items())
        print(f"{name}: {sum(counts.values())} planted, {said}")


if __name__ == "__main__":
    main()
