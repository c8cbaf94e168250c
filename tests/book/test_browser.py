"""The built pages as a reader meets them: opened from the file system, in a browser, offline."""

import functools
import http.server
import threading
import time
from pathlib import Path

import axe_playwright_python
import pytest
import yaml
from test_notebooks import ROOT, toc_files

import d2l_utils as d2l

TOC = toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8")))
PAGES = [*TOC, "index", "search", "genindex"]
NARROW = ((1, 16), (1, 32), (2, 64), (2, 128), (2, 128))
DESKTOP = {"width": 1280, "height": 900}
SMALL = ((2, 32), (2, 64), (2, 128))


@pytest.fixture(scope="module")
def troubles():
    """What went wrong in the tab."""
    return []


# Each page is the first that this reader opens. The theme would scroll as on the one before.
FORGET = "location.protocol == 'file:' && [localStorage, sessionStorage].forEach(x => x.clear())"


@pytest.fixture(scope="module")
def tab(browser, troubles):
    """A tab for all tests: a new one takes longer than most pages do."""
    with browser.new_page(viewport=DESKTOP) as tab:
        tab.set_default_timeout(120_000)
        tab.add_init_script(FORGET)
        tab.on("request", lambda r: r.url.startswith(("file:", "data:")) or troubles.append(r.url))
        tab.on("requestfailed", lambda request: troubles.append(request.url))
        tab.on("console", lambda m: m.type == "error" and troubles.append(m.text))
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        yield tab


@pytest.fixture
def open_page(tab, troubles, book):
    """Opens a page of the book and fails if it asks for anything that it does not have."""
    tab.goto("about:blank")  # what the page before still asked for is stopped
    tab.emulate_media(media="screen", color_scheme="light")
    troubles.clear()

    def open_page(name, width=1280):
        tab.set_viewport_size(DESKTOP | {"width": width})
        tab.goto((book / name).as_uri())
        tab.wait_for_function("!document.querySelector('meta[http-equiv=refresh]')")
        tab.wait_for_load_state()
        return tab

    yield open_page
    assert troubles == []


# How many formulas there are, and how many of them are seen, in their own font.
TYPESET = """async () => {
  const folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach(part => part.open = true);
  const formulas = [...document.querySelectorAll(".math")];
  const seen = formulas.filter(e => e.querySelector("math")?.getBoundingClientRect().width > 3);
  await document.fonts.ready;
  const fonts = [...document.fonts].filter(font => font.family.includes("STIX Two Math"));
  folded.forEach(part => part.open = false);
  return [formulas.length, fonts.some(font => font.status == "loaded") ? seen.length : 0];
}"""


AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
# Listings are thousands of elements that look alike. Axe looks at each kind of token once; it would
# take half a minute for a page. Likewise for the contrast of texts: one stands for all of its class
# that are painted in the same way, upon the same. The sources of styles that it would load once
# more (preload) cannot be read from a file path. Buttons fade from the light mode's colours to the
# dark mode's; what counts is how they end, and a browser that draws no frames would never get
# there by itself.
RUN_AXE = """async options => {
  document.getAnimations().forEach(animation => animation.finish());
  const seen = new Set();
  for (const token of document.querySelectorAll(".highlight pre span")) {
    if (seen.has(token.className)) token.remove();
    seen.add(token.className);
  }
  const paint = new Map();
  for (const e of document.querySelectorAll("*")) {
    if (e.scrollTop) e.scrollTop = 0;  // axe says nothing of a text that is scrolled out of sight
    const {backgroundColor, backgroundImage, opacity, filter, position, zIndex,
           color, fontSize, fontWeight, textShadow} = getComputedStyle(e);
    const below = [paint.get(e.parentElement), backgroundColor, backgroundImage, opacity, filter,
                   position, zIndex].join();
    paint.set(e, below);
    const look = [below, e.tagName, e.className, color, fontSize, fontWeight, textShadow].join();
    const text = [...e.childNodes].some(node => node.nodeType == 3 && node.data.trim());
    const first = (text || e.matches("input, select, textarea")) && !seen.has(look)
        && e.checkVisibility({visibilityProperty: true});
    if (first) seen.add(look);
    e.toggleAttribute("data-first", first);
  }
  axe.configure({rules: [{id: "color-contrast", selector: "[data-first]"}]});
  options = {preload: false, resultTypes: ["violations"], ...options};
  const found = await axe.run(document, options);
  return found.violations.map(rule => [rule.id, rule.nodes.map(node => node.html)]);
}"""


def violations(page, **options):
    if not page.evaluate("window.axe"):
        page.add_script_tag(path=AXE)
    return page.evaluate(RUN_AXE, options)


# What is wider than the sheet, or would have to be scrolled, at the width of an A4 page.
CUT = """() => [...document.querySelectorAll(".bd-article *")].filter(e => {
  const box = e.getBoundingClientRect();
  const style = getComputedStyle(e);
  const scrolls = ["auto", "scroll"].includes(style.overflowX) && e.scrollWidth > e.clientWidth + 1;
  const inside = e.parentElement.closest("math");  // of a formula, which is looked at as a whole
  return box.width > 0 && !inside && (scrolls || box.right > innerWidth + 1);
}).map(e => e.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_and_accessible_and_fits_phone_and_paper(open_page, name):
    page = open_page(f"{name}.html")
    formulas, seen = page.evaluate(TYPESET)
    assert seen == formulas
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 990})
    assert page.evaluate(CUT) == []
    page.emulate_media(media="screen")
    page.set_viewport_size(DESKTOP)
    assert violations(page) == []  # last, since it takes listings away
    page.emulate_media(color_scheme="dark")  # the page follows; nothing but its colours changes
    page.wait_for_function("document.documentElement.dataset.theme == 'dark'")
    assert violations(page, runOnly=["color-contrast"]) == []


@pytest.mark.parametrize(
    ("html", "rule"),
    [
        ('<img src="x.png">', "image-alt"),
        ('<p style="color: #999; background: #fff">too pale</p>', "color-contrast"),
        ('<p>black</p><p style="color: #999">too pale</p>', "color-contrast"),
        ('<p>on white</p><div style="background: #222"><p>on black</p></div>', "color-contrast"),
        ('<p><img alt="none"></p><p>none</p><style>p {color: #999}</style>', "color-contrast"),
        ("<p hidden>none</p><p>none</p><style>p {color: #999}</style>", "color-contrast"),
        ("<select><option>1</option></select>", "select-name"),
    ],
)
def test_what_a_reader_cannot_use_is_noticed(tab, html, rule):
    tab.goto("about:blank")
    tab.set_content(html)
    assert rule in [found for found, _ in violations(tab)]


def test_mathematics_is_there_at_all(open_page):
    assert open_page("book/parameters.html").evaluate(TYPESET)[0] > 0


def test_a_formula_that_is_not_seen_is_noticed(open_page):
    page = open_page("book/parameters.html")
    page.evaluate("document.querySelector('math').replaceChildren()")
    formulas, seen = page.evaluate(TYPESET)
    assert seen == formulas - 1


def searched(page, words):
    page.keyboard.press("Control+k")
    page.locator("dialog input[type=search]").fill(words)
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html*")
    return page.locator("#search-results").get_by_role("link")


def test_search_finds_vgg(open_page):
    found = searched(open_page("book/index.html"), "VGG")
    found.filter(has_text="VGG-16 and VGG-19").first.wait_for()


def test_search_leads_to_sections_first_and_knows_american_spellings(open_page):
    found = searched(open_page("book/index.html"), "color")
    found.first.wait_for()
    found = searched(open_page("book/index.html"), "checkpoints")
    found.first.wait_for()
    assert found.first.get_attribute("href").endswith("d2l_utils.html#checkpoints")


@pytest.fixture
def address(book):
    """The book on a server, where a page may fetch others."""
    handler = functools.partial(QuietHandler, directory=book)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_search_shows_excerpts_where_the_book_is_served(tab, address):
    tab.goto(f"{address}/search.html?q=pooling")
    tab.locator("#search-results p.context", has_text="pooling").first.wait_for()


def test_a_card_leads_to_its_notebook(open_page):
    page = open_page("book/index.html")
    title = page.get_by_role("heading", name="1.1: How many parameters")
    title.scroll_into_view_if_needed()
    box = title.bounding_box()
    page.mouse.click(box["x"] + 10, box["y"] + 60)  # the link covers the whole card
    page.wait_for_url("**/parameters.html")


# --- The explorer -----------------------------------------------------------------------------

EXPLORED = {
    "VGG-11 (A)": lambda: d2l.VGG(d2l.VGG_ARCHS["A"]),
    "VGG-11 with LRN (A-LRN)": lambda: d2l.VGG(d2l.VGG_ARCHS["A-LRN"]),
    "VGG-13 (B)": lambda: d2l.VGG(d2l.VGG_ARCHS["B"]),
    "VGG-16 with 1×1 (C)": lambda: d2l.VGG(d2l.VGG_ARCHS["C"]),
    "VGG-16 (D)": lambda: d2l.VGG(d2l.VGG_ARCHS["D"]),
    "VGG-19 (E)": lambda: d2l.VGG(d2l.VGG_ARCHS["E"]),
    "narrow VGG-11, as in the section": lambda: d2l.VGG(NARROW),
    "AlexNet": d2l.AlexNet,
    "three blocks, for low resolution": lambda: d2l.VGG(SMALL, head="gap", batch_norm=True),
}
QUANTITIES = {"parameters": "params", "MACs": "macs", "activations": "activations"}


def pick(page, network, side, channels):
    page.get_by_role("combobox", name="Network").select_option(label=network)
    page.get_by_role("combobox", name="Side").select_option(label=str(side))
    page.get_by_role("combobox", name="Channels").select_option(label=str(channels))


FROM_TOP = """texts => texts
    .map(text => [text.getBoundingClientRect().top, text.textContent])
    .sort((a, b) => a[0] - b[0]).map(([top, text]) => text)"""


def shown(page):
    """Returns the texts of the chart: the labels of its layers, its counts, its totals."""
    # The order of the elements is not that on the page, from top to bottom.
    texts = page.locator("div.vega-chart svg text").evaluate_all(FROM_TOP)
    layers = [text for text in texts if text.startswith(("conv ", "FC "))]
    counts = [text for text in texts if text.replace(",", "").isdigit()]
    totals = [text for text in texts if text.endswith(tuple(QUANTITIES))]
    return layers, sorted(counts), sorted(totals)


def shows(page, expected):
    """Says whether the chart comes to show what is expected; Vega answers a few frames later."""
    end = time.monotonic() + 20
    while shown(page) != expected and time.monotonic() < end:
        page.wait_for_timeout(50)
    return shown(page) == expected


@functools.cache
def counted(network, side, channels):
    rows = d2l.layer_costs(EXPLORED[network](), (channels, side, side))
    convs = sum(row.kind == "conv" for row in rows)
    layers = [f"conv {i + 1}" if i < convs else f"FC {i + 1 - convs}" for i in range(len(rows))]
    columns = {name: [getattr(r, field) for r in rows] for name, field in QUANTITIES.items()}
    counts = [f"{count:,}" for column in columns.values() for count in column]
    totals = [f"{sum(column):,} {name}" for name, column in columns.items()]
    return layers, sorted(counts), sorted(totals)


def test_explorer_shows_what_layer_costs_counts(open_page):
    page = open_page("book/explorer.html")
    options = page.get_by_role("combobox", name="Network").locator("option").all_text_contents()
    assert options == list(EXPLORED)
    for number, network in enumerate(EXPLORED):
        for side, channels in ((224, 3), ((64, 96, 128)[number % 3], 1)):
            pick(page, network, side, channels)
            expected = counted(network, side, channels)
            assert shows(page, expected), (network, side, channels, shown(page), expected)


@pytest.mark.parametrize("network", ["VGG-19 (E)", "AlexNet"])
def test_explorer_says_what_is_too_small(open_page, network):
    page = open_page("book/explorer.html")
    pick(page, network, 28, 1)
    page.locator("div.vega-chart svg").get_by_text("28×28 is too small").wait_for()
    assert shows(page, ([], [], []))
    with pytest.raises(ValueError, match="too small"):
        counted(network, 28, 1)


def test_explorer_fits_a_phone(open_page):
    page = open_page("book/explorer.html", width=390)
    for network in EXPLORED:
        pick(page, network, 224, 3)
        assert shows(page, counted(network, 224, 3))
        chart = page.locator("div.vega-chart").evaluate("e => e.getBoundingClientRect().right")
        texts = page.locator("div.vega-chart svg text").evaluate_all(
            "all => Math.max(...all.map(e => e.getBoundingClientRect().right))"
        )
        assert texts <= chart <= 390, network
