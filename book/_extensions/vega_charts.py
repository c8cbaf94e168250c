"""Shows a notebook's Vega charts live in the pages, with scripts that the book brings itself.

Sphinx knows such an output's picture only, and the usual script loads Vega from elsewhere.
"""

import json

from docutils import nodes
from myst_nb.core.render import load_mime_renders, sanitize_script_content

MIME_TYPE = "application/vnd.vega.v5+json"


class VegaRenderer:
    """Puts the chart into the page, where myst-nb would put its picture."""

    mime_priority_overrides = (("html", MIME_TYPE, 0),)

    @staticmethod
    def handle_mime(renderer, data, inline):
        if data.mime_type != MIME_TYPE:
            return None
        chart = {key: value for key, value in data.content.items() if key != "$schema"}
        spec = sanitize_script_content(json.dumps(chart, ensure_ascii=False))
        html = f'<div class="vega-chart"><script type="application/json">{spec}</script></div>'
        return [nodes.raw("", html, format="html")]


def has_chart(doctree):
    raw = doctree.findall(nodes.raw) if doctree else ()
    return any('class="vega-chart"' in node.astext() for node in raw)


def add_scripts(app, pagename, templatename, context, doctree):
    """Only the pages with a chart load Vega."""
    if has_chart(doctree):
        app.add_js_file("vega.min.js", loading_method="defer")
        app.add_js_file("charts.js", loading_method="defer")


def setup(app):
    load_mime_renders().append(VegaRenderer)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
