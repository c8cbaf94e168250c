"""What the site has around its pages: descriptions, their state, a page for what is not found."""

import functools
import html
import re
import subprocess
import tomllib
from datetime import date
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).parents[2]

# An icon in Font Awesome's script: its name, other names of it, and its outline.
ICON = re.compile(
    r'(?:"(?P<quoted>[a-z0-9-]+)"|\b(?P<plain>[a-z][a-z0-9]*)):'
    r'\[\d+,\d+,(?P<others>\[[^]]*]),"[0-9a-f]+",(?:"[^"]*"|\[[^]]*])],?'
)

# The style that has an icon's letter in Font Awesome's font.
ICON_RULE = re.compile(r'(?:\.fa-[a-z0-9-]+:before,?)+\{content:"[^"]*"\}')

NOT_FOUND = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Not found</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1.1rem system-ui, sans-serif; max-width: 34rem; margin: 15vh auto; padding: 0 1rem; }}
</style>
<main><h1>This page is not here</h1>
<p>It may have moved: all pages are listed on <a href="{home}">the first page</a>.</p></main>
</html>
"""


def description(doctree, length=160):
    """The page's answer, where it has one, else its first paragraph, cut after a word."""
    texts = [" ".join(node.astext().split()) for node in doctree.findall(nodes.paragraph)]
    answers = [text for text in texts if text.startswith("Answer")]
    text = re.sub(r"^Answer\.?\s*", "", next(iter(answers or texts), ""))
    return text if len(text) <= length else text[:length].rsplit(" ", 1)[0] + " …"


def describe(app, pagename, templatename, context, doctree):
    if doctree and (text := description(doctree)):
        meta = f'<meta name="description" content="{html.escape(text, quote=True)}" />'
        context["metatags"] = context.get("metatags", "") + meta


@functools.cache
def state():
    """The book's version, and the day of its last commit, in a repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    git = ["git", "-C", ROOT, "log", "-1", "--format=%cs"]
    try:
        day = date.fromisoformat(subprocess.check_output(git, encoding="utf-8").strip())
    except (OSError, subprocess.CalledProcessError):
        return {"book_version": project["version"]}
    return {"book_version": project["version"], "committed": f"{day.day} {day:%B %Y}"}


def add_state(app, pagename, templatename, context, doctree):
    context.update(state())


def name_no_corner(app, doctree, docname):
    """The corner of a table heads nothing: as an empty header a screen reader would announce it."""
    for node in doctree.findall(nodes.raw):
        if 'class="dataframe"' in node.astext():
            node.children = [nodes.Text(node.astext().replace("<th></th>", "<td></td>"))]


def prune_icons(app, exception):
    """Of Font Awesome's two thousand icons, 1.5 MB of script and style, pages name some dozens."""
    static = Path(app.outdir) / "_static"
    script = static / "scripts" / "fontawesome.js"
    style = static / "styles" / "pydata-sphinx-theme.css"
    files = [*Path(app.outdir).rglob("*.html"), *Path(app.outdir).rglob("*.js")]
    texts = (file.read_text("utf-8") for file in files if file != script)
    used = {name for text in texts for name in re.findall(r"\bfa-([a-z0-9-]+)", text)}

    def kept(icon):
        names = {icon["quoted"] or icon["plain"], *re.findall('"([^"]+)"', icon["others"])}
        return icon[0] if names & used else ""

    def kept_rule(rule):
        return rule[0] if used & set(re.findall(r"\.fa-([a-z0-9-]+)", rule[0])) else ""

    script.write_text(ICON.sub(kept, script.read_text("utf-8")), "utf-8")
    style.write_text(ICON_RULE.sub(kept_rule, style.read_text("utf-8")), "utf-8")


def write_not_found(app, exception):
    """A server shows this for any address below its root, so that no link in it is relative."""
    page = NOT_FOUND.format(home=app.config.html_baseurl or "/")
    (Path(app.outdir) / "404.html").write_text(page, "utf-8")


def setup(app):
    app.connect("html-page-context", describe)
    app.connect("html-page-context", add_state)
    app.connect("doctree-resolved", name_no_corner)
    app.connect("build-finished", prune_icons, priority=900)  # after it was copied
    app.connect("build-finished", write_not_found)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
