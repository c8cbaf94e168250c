"""Formulas as MathML, which browsers typeset themselves: no script, nothing to wait for."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging


def mathml(tex, display):
    """Return a formula as docutils has it, with numbers whole and stops and slashes as in TeX."""
    tex = re.sub(r"(?<=\d)\{,\}(?=\d)", ",", tex)
    formula = tex2mathml(tex, as_block=display)
    return re.sub(r"<mo([^>]*)>([./])<", r'<mo\1 lspace="0" rspace="0">\2<', formula)


def writer(tag):
    """Return what writes a formula into an element of this kind."""

    def visit(translator, node):
        try:
            formula = mathml(node.astext(), tag == "div")
        except MathError as error:
            logging.getLogger(__name__).warning("%s in %s", error, node.astext(), location=node)
            formula = ""
        translator.body.append(f'<{tag} class="math">{formula}</{tag}>')
        raise nodes.SkipNode

    return visit, None


def setup(app):
    app.add_html_math_renderer("mathml", writer("span"), writer("div"))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
