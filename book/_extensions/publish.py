"""What a public book has: `make book SITE=https://… REPOSITORY=https://github.com/…` adds it.

SITE is where the pages will stand, REPOSITORY where their sources do, else Repository in
pyproject.toml. Each works without the other.
"""

import html
import os
import re
from pathlib import Path

from book_site import description
from exercises_alone import ID, address, stored_address

GITHUB = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
BUTTONS = {
    "repository_branch": "main",
    "use_repository_button": True,
    "use_edit_page_button": True,
    "use_issues_button": True,
    "launch_buttons": {
        "colab_url": "https://colab.research.google.com",
        "binderhub_url": "https://mybinder.org",
        "notebook_interface": "jupyterlab",
    },
}


def addresses():
    """Return site and repository, empty where they are not given, with no slash at the end."""
    site, repository = os.environ.get("SITE", "").rstrip("/"), address()
    if site and not site.startswith(("https://", "http://")):
        raise ValueError(f"SITE is {site}; it must start with https://")
    if repository and not GITHUB.fullmatch(repository):
        raise ValueError(f"REPOSITORY is {repository}; it must be https://github.com/OWNER/NAME")
    return site, repository


def configure(app, config):
    site, repository = addresses()
    if site:
        config.html_baseurl = f"{site}/"
    if repository:
        config.html_theme_options |= BUTTONS | {"repository_url": repository}


def launch_what_runs(app, pagename, templatename, context, doctree):
    """Colab opens a stored notebook alone: it must be one that says where the package is."""
    path = Path(app.srcdir, f"{pagename}.ipynb")
    if stored_address() and path.exists() and f'"{ID}"' in path.read_text("utf-8"):
        return
    for group in context.get("header_buttons", []):
        if "buttons" in group:
            group["buttons"] = [link for link in group["buttons"] if link.get("text") != "Colab"]


def card(app, pagename):
    """The picture on the first page that stands for this one, else the explorer's."""
    pictures = {Path(path).stem: file for path, (_, file) in app.env.images.items()}
    file = pictures.get(Path(pagename).name, pictures.get("explorer"))
    return f"_images/{file}" if file else "_static/logo.png"


def add_card(app, pagename, templatename, context, doctree):
    """What others show of a page that someone links to."""
    if not (app.config.html_baseurl and doctree):
        return
    properties = {
        "og:type": "article",
        "og:site_name": app.config.html_title,
        "og:title": context["title"],
        "og:description": description(doctree),
        "og:url": app.config.html_baseurl + app.builder.get_target_uri(pagename),
        "og:image": app.config.html_baseurl + card(app, pagename),
    }
    metas = [
        f'<meta property="{name}" content="{html.escape(html.unescape(text), quote=True)}" />'
        for name, text in properties.items()
    ]
    metas.append('<meta name="twitter:card" content="summary_large_image" />')
    context["metatags"] = context.get("metatags", "") + "\n".join(metas)


def write_sitemap(app, exception):
    if base := app.config.html_baseurl:
        urls = [base + app.builder.get_target_uri(name) for name in sorted(app.env.found_docs)]
        lines = [f"<url><loc>{html.escape(url)}</loc></url>" for url in urls]
        head = '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
        text = "\n".join(['<?xml version="1.0" encoding="utf-8"?>', head, *lines, "</urlset>\n"])
        (Path(app.outdir) / "sitemap.xml").write_text(text, "utf-8")


def setup(app):
    app.connect("config-inited", configure)
    app.connect("html-page-context", add_card)
    app.connect("html-page-context", launch_what_runs, priority=900)  # after the theme's buttons
    app.connect("build-finished", write_sitemap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
