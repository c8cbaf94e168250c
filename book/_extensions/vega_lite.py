"""Shows a notebook's Vega-Lite charts live in the pages, with scripts that the book brings itself.

Sphinx knows such an output's picture only, and the usual script loads Vega from elsewhere.
"""

import json
from pathlib import Path

import vl_convert
from docutils import nodes
from myst_nb.core.render import load_mime_renders, sanitize_script_content

MIME_TYPE = "application/vnd.vegalite.v5+json"
SCRIPT = "vega.js"
VEGA_LITE = "5.20"
EMBED = """
for (const chart of document.querySelectorAll("div.vega-lite")) {
  vegaEmbed(chart, JSON.parse(chart.querySelector("script").text), {mode: "vega-lite"});
}
"""


class VegaLiteRenderer:
    """Puts the chart into the page, where myst-nb would put its picture."""

    mime_priority_overrides = (("html", MIME_TYPE, 0),)

    @staticmethod
    def handle_mime(renderer, data, inline):
        if data.mime_type != MIME_TYPE:
            return None
        chart = {key: value for key, value in data.content.items() if key != "$schema"}
        spec = sanitize_script_content(json.dumps(chart, ensure_ascii=False))
        html = f'<div class="vega-lite"><script type="application/json">{spec}</script></div>'
        return [nodes.raw("", html, format="html")]


def has_chart(doctree):
    raw = doctree.findall(nodes.raw) if doctree else ()
    return any('class="vega-lite"' in node.astext() for node in raw)


def add_script(app, pagename, templatename, context, doctree):
    """Only the pages with a chart load Vega."""
    if has_chart(doctree):
        app.add_js_file(SCRIPT, loading_method="defer")


def write_script(app, exception):
    """Vega, Vega-Lite and Vega-Embed come out of a wheel; bundling takes seconds, so it is kept."""
    kept = Path(app.doctreedir) / f"vega-lite-{VEGA_LITE}-{vl_convert.__version__}.js"
    if not kept.exists():
        kept.write_text(vl_convert.javascript_bundle(vl_version=VEGA_LITE), "utf-8")
    # Its names are a module's own, but browsers load no module from a file path: a function, then.
    script = f"(() => {{\n{kept.read_text('utf-8')}\n}})();\n{EMBED}"
    (Path(app.outdir) / "_static" / SCRIPT).write_text(script, "utf-8")


def setup(app):
    load_mime_renders().append(VegaLiteRenderer)
    app.connect("html-page-context", add_script)
    app.connect("build-finished", write_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
