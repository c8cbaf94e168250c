"""Checks of the built pages that need no browser: nothing from elsewhere, nothing dangling."""

import datetime
import re
import subprocess
import tomllib
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from docutils import nodes
from fontTools.ttLib import TTFont
from test_notebooks import NOTEBOOKS, ROOT, load, name_of, toc_files

HTML = ROOT / "_build/html"
mathml = load("book/_extensions/mathml.py")
# What a page brings with it, as against what it links to.
RESOURCES = {
    "script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src",
    "video": "src", "audio": "src", "embed": "src", "object": "data", "image": "href",
}  # fmt: skip


def parse(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def from_elsewhere(page):
    """What the page would load from another host."""
    urls = [tag.get(attribute, "") for name, attribute in RESOURCES.items() for tag in page(name)]
    urls += [url for tag in page(srcset=True) for url in tag["srcset"].split()]
    styles = [tag.get_text() for tag in page("style")] + [tag["style"] for tag in page(style=True)]
    scripts = [tag.get_text() for tag in page("script")]
    return (
        [url for url in urls if re.match(r"(?:https?:)?//", url)]
        + [match[0] for style in styles for match in outside_styles(style)]
        + [match[0] for script in scripts for match in re.finditer(r"https?://[^\"'\s]+", script)]
    )


def outside_styles(css):
    return re.finditer(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"';]+", css)


def dangling(pages):
    """What pages link to or load that is not in the book, anchors included, by page."""
    ids = {path: {tag["id"] for tag in page(id=True)} for path, page in pages.items()}
    found = {path: list(_dangling(path, page, ids)) for path, page in pages.items()}
    return {path: links for path, links in found.items() if links}


def _dangling(path, page, ids):
    tags = [(tag, "href") for tag in page("a", href=True)]
    tags += [(t, name) for tag, name in RESOURCES.items() for t in page(tag, {name: True})]
    for tag, attribute in tags:
        url = urlsplit(tag[attribute])
        if url.scheme or url.netloc:
            continue
        target = (path.parent / unquote(url.path)).resolve() if url.path else path
        anchor = unquote(url.fragment)
        if not target.is_file():
            yield tag[attribute]
        elif anchor and anchor not in ids.get(target, {anchor}):
            yield tag[attribute]


def undescribed(page):
    """The pictures whose alt text does not say what they show; the mark has the title beside it."""
    pictures = [tag for tag in page("img") if "logo__image" not in tag.get("class", [])]
    return [tag.get("src") for tag in pictures if len(tag.get("alt", "")) < 30]


def weight(path, page):
    """Bytes of the page with its pictures, scripts and styles."""
    named = {tag["src"] for tag in page(["img", "script"], src=True)}
    named |= {tag["href"] for tag in page("link", rel="stylesheet")}
    files = {path.parent / name.split("?")[0] for name in named if not name.startswith("data:")}
    return path.stat().st_size + sum(file.stat().st_size for file in files)


def test_the_book_is_built_without_warnings(warnings_of_the_build):
    assert warnings_of_the_build == ""


def test_every_page_of_the_contents_is_built(pages):
    built = {path.relative_to(HTML).with_suffix("").as_posix() for path in pages}
    assert set(toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8")))) <= built
    assert {"index", "search"} <= built


def test_nothing_is_loaded_from_elsewhere(pages):
    outside = {str(path): found for path, page in pages.items() if (found := from_elsewhere(page))}
    for path in HTML.rglob("*.css"):
        outside |= {str(path): match[0] for match in outside_styles(path.read_text("utf-8"))}
    assert outside == {}


def test_every_link_anchor_and_picture_is_there(pages):
    assert dangling(pages) == {}


def test_every_picture_is_described(pages):
    assert {str(p): found for p, page in pages.items() if (found := undescribed(page))} == {}


def test_no_page_is_heavy(pages):
    heavy = {str(p): n for p in pages if (n := weight(p, pages[p])) > 1_500_000}
    assert heavy == {}


def test_every_page_has_what_a_reader_goes_on_with(pages):
    """A search field, the page before and after, and of a notebook its source and copy buttons."""
    names = toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8")))
    for place, name in enumerate(names):
        page = pages[HTML / f"{name}.html"]
        assert page.find("form", class_="bd-search"), name
        assert bool(page.find("a", class_="left-prev")) == (place > 0), name
        assert bool(page.find("a", class_="right-next")) == (place < len(names) - 1), name
    for path in NOTEBOOKS:
        page = pages[HTML / f"{name_of(path)}.html"]
        source = page.find("a", class_="btn-download-source-button")["href"]
        assert source.endswith(f"{path.stem}.ipynb")
        assert any("copybutton" in tag["src"] for tag in page("script", src=True))


def test_every_page_describes_itself(pages):
    names = toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8")))
    metas = [
        pages[HTML / f"{name}.html"].find("meta", attrs={"name": "description"}) for name in names
    ]
    descriptions = [meta["content"] for meta in metas]
    assert all(30 < len(text) <= 162 for text in descriptions)
    assert len(set(descriptions)) == len(names)


def test_every_page_says_under_what_it_may_be_used_and_how_old_it_is(pages):
    git = ["git", "-C", ROOT, "log", "-1", "--format=%cs"]
    committed = datetime.date.fromisoformat(subprocess.check_output(git, encoding="utf-8").strip())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    for name in [*toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))), "genindex"]:
        footer = pages[HTML / f"{name}.html"].find("footer", class_="bd-footer-content")
        licences = {tag.text: tag["href"] for tag in footer("a", rel="license")}
        assert licences == {
            "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
            "MIT": "https://opensource.org/license/mit",
        }, name
        day = f"{committed.day} {committed:%B %Y}"
        assert f"Version {version}, last updated on {day}." in footer.text, name


def test_what_is_shown_for_a_page_not_found_stands_alone(book):
    page = parse(book / "404.html")
    assert [tag["href"] for tag in page(href=True)] == ["/"]  # it is shown at any address
    assert page(src=True) == []


def test_only_icons_that_pages_name_are_there(book, pages):
    script = (book / "_static" / "scripts" / "fontawesome.js").read_text("utf-8")
    style = (book / "_static" / "styles" / "pydata-sphinx-theme.css").read_text("utf-8")
    assert len(script) < 200_000
    assert ".fa-bars:before" in style and ".fa-zhihu:before" not in style
    named = {c for page in pages.values() for tag in page(class_="fa-solid") for c in tag["class"]}
    named = {name.removeprefix("fa-") for name in named} & {"bars", "magnifying-glass"}
    assert len(named) == 2
    assert [name for name in named if not re.search(rf'[{{,"]{name}"?:\[', script)] == []


def test_figures_are_numbered(pages):
    for path in NOTEBOOKS:
        page = pages[HTML / f"{name_of(path)}.html"]
        numbers = [tag.find(class_="caption-number") for tag in page("figcaption")]
        assert all(numbers), path


def test_a_reference_lists_the_pages_that_cite_it(pages):
    page = pages[HTML / "book/references.html"]
    (entry,) = [tag for tag in page("li", id=True) if "1409.1556" in tag.text]
    citing = {tag["href"] for tag in entry("a", class_="internal")}
    assert {"vgg16_vgg19.html", "studies/why_deep_vggs_stall.html", "d2l_utils.html"} <= citing


def test_every_formula_is_mathml_in_a_font_that_has_its_signs(book, pages):
    formulas = [tag for page in pages.values() for tag in page(class_="math")]
    assert len(formulas) > 100
    assert [tag for tag in formulas if len(tag("math")) != 1] == []
    font = TTFont(book / "_static" / "stix-two-math.woff")
    signs = {sign for tag in formulas for sign in tag.text if not sign.isspace()}
    slanted = {"\N{MATHEMATICAL ITALIC SMALL N}", "\N{MATHEMATICAL ITALIC SMALL SIGMA}"}
    assert [sign for sign in signs | slanted if ord(sign) not in font.getBestCmap()] == []
    assert "MATH" in font  # how roots and brackets grow


def test_numbers_in_formulas_stay_whole_and_stops_and_slashes_close():
    formula = mathml.mathml(r"25{,}088 / 2 = 12{,}544.", display=False)
    assert "<mn>25,088</mn>" in formula and "<mn>12,544</mn>" in formula
    assert len(re.findall('<mo[^>]* lspace="0" rspace="0">[./]</mo>', formula)) == 2


# --- The checks bite --------------------------------------------------------------------------


@pytest.mark.parametrize("tex", [r"\nosuch", r"\frac{1}"])
def test_a_wrong_formula_is_noticed(tex, caplog):
    with pytest.raises(nodes.SkipNode):
        mathml.writer("span")[0](SimpleNamespace(body=[]), nodes.math("", tex))
    assert tex in caplog.text


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://example.org/x.js"></script>',
        '<script src="//example.org/x.js"></script>',
        '<script>load("https://example.org/x.js")</script>',
        '<link rel="stylesheet" href="https://example.org/x.css">',
        '<img src="https://example.org/x.png">',
        '<img srcset="https://example.org/x.png 2x">',
        '<iframe src="https://example.org/"></iframe>',
        '<style>@import "https://example.org/x.css";</style>',
        "<style>@font-face { src: url(https://example.org/x.woff2) }</style>",
        '<p style="background: url(//example.org/x.png)"></p>',
    ],
)
def test_an_outside_resource_is_noticed(html):
    assert len(from_elsewhere(BeautifulSoup(html, "html.parser"))) == 1


def test_an_outside_link_is_no_resource():
    html = '<a href="https://example.org/">https://example.org</a><img src="x.png">'
    assert from_elsewhere(BeautifulSoup(html, "html.parser")) == []


def test_what_dangles_is_noticed(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="#top"></a><a href="#gone"></a><a href="b.html#part"></a>'
        '<a href="b.html#gone"></a><a href="gone.html"></a><img src="gone.png">'
        '<a href="https://example.org/gone"></a><script src="a.html?v=1"></script>',
        encoding="utf-8",
    )
    (tmp_path / "b.html").write_text('<h2 id="part"></h2>', "utf-8")
    pages = {path: parse(path) for path in tmp_path.glob("*.html")}
    ((path, found),) = dangling(pages).items()
    assert path == tmp_path / "a.html"
    assert set(found) == {"#gone", "b.html#gone", "gone.html", "gone.png"}


def test_a_picture_without_description_is_noticed(tmp_path):
    html = '<img src="1"><img src="2" alt=""><img src="3" alt="image"><img src="4" alt="{}">'
    page = BeautifulSoup(html.format("The loss of both networks falls."), "html.parser")
    assert undescribed(page) == ["1", "2", "3"]


def test_pictures_count_for_the_weight(tmp_path):
    (tmp_path / "x.png").write_bytes(bytes(1000))
    (tmp_path / "x.js").write_bytes(bytes(500))
    path = tmp_path / "a.html"
    (tmp_path / "x.css").write_bytes(bytes(70))
    names = '<img src="x.png"><img src="x.png"><script src="x.js?v=1"></script>'
    path.write_text(
        f'{names}<link rel="stylesheet" href="x.css?v=1"><link rel="next" href="a">', "utf-8"
    )
    assert weight(path, parse(path)) == 1570 + path.stat().st_size
