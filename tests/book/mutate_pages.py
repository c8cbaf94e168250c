"""Plants wrong numbers in the pages and counts how many the checks notice: `make mutants`.

In prose, captions and tables a number is changed and the guards on numbers asked, those of
claims.py and labels.py; in stored outputs one digit or one picture of each cell is changed, and
nbval runs a copy of the notebook. The same seed plants the same numbers. What survives is listed
with its reason: a rule that leaves such numbers out, or chance, where something nearby proves the
wrong number too.
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
import labels
import nbformat
import written
from PIL import Image
from test_notebooks import NOTEBOOKS, ROOT, code_cells, name_of, read

# Where no number of a reader's stands: code, targets of links, HTML.
ASIDE = re.compile(r"```.*?```|`[^`\n]+`|\]\([^)]*\)|<[^>]*>|https?://\S+", re.DOTALL)
TOKEN = re.compile(r"(?<![\w.,}])(?<![A-Za-z]-)\d+(?:(?:,|\{,\})\d{3})*(?:\.\d+)?(?![\w.]*\d)")


ABSURD = "86421.97"  # what nothing proves: if it passes, a rule leaves the number out


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


def in_notebooks(rng, count):
    """Plants numbers in the notebooks; yields (caught, kind, reason, where)."""
    pages = {path: read(path) for path in NOTEBOOKS}
    everywhere = [
        (path, number, span)
        for path, nb in pages.items()
        for number, (_, text, _) in enumerate(slots(nb))
        for span in places(text)
    ]
    codes = {path: claims.code_of(nb) for path, nb in pages.items()}
    right = {path: complaints(nb, path, codes[path]) for path, nb in pages.items()}
    for path, number, (start, end) in rng.sample(everywhere, min(count, len(everywhere))):
        kind, text, put = list(slots(pages[path]))[number]
        line = text[text.rfind("\n", 0, start) + 1 :].lstrip()
        kind = "table" if kind == "prose" and line.startswith("|") else kind
        wrong = altered(text[start:end], rng)
        caught, noticed = False, False
        for planted in (wrong, ABSURD):
            put(text[:start] + planted + text[end:])
            noticed = complaints(pages[path], path, codes[path]) != right[path]
            put(text)
            caught |= noticed and planted == wrong
            if caught:
                break
        reason = "chance" if noticed else f"left out: {rule(text, start, end)}"
        where = f"{text[max(0, start - 40) : start]}[{wrong}]{text[end : end + 30]}"
        yield caught, kind, reason, f"{path.stem}: {' '.join(where.split())}"


def complaints(nb, path, code):
    """What the guards on numbers say of a page, without the sentence that each quotes."""
    found = claims.unproven(nb, path.parent, code)
    found += labels.mislabelled("\n\n".join(claims.prose_of(nb.cells)), path.stem)
    return Counter(re.sub(r" in '.*?':", ":", complaint, flags=re.DOTALL) for complaint in found)


def rule(text, start, end):
    """The rule that leaves a number out, by the word that names what it counts or numbers."""
    if any(m.start() < start < m.end() for m in written.FORMULA.finditer(text)):
        return "constant of a formula"
    covering = (m[0] for m in written.NO_CLAIM.finditer(text) if m.start() <= start < m.end())
    names = re.findall(r"[a-z]+", next(covering, "").lower())
    return f"number of a {names[0]}" if names else "free"


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
        counts = {what: n for (kind, what), n in sorted(verdicts.items()) if kind == name}
        said = ", ".join(f"{n} {what}" for what, n in counts.items())
        print(f"{name}: {sum(counts.values())} planted, {said}")


if __name__ == "__main__":
    main()
