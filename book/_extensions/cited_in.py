"""Shows the bibliography as a list that says of each entry which pages cite it.

A page cites by a plain link, which works outside of the book too: to the entry's url.
"""

from docutils import nodes


def pages_with_links(app):
    """Yield each page in reading order, with the addresses that it links to."""
    root = app.config.root_doc
    for name in [root, *app.env.toctree_includes.get(root, [])]:
        links = app.env.get_doctree(name).findall(nodes.reference)
        yield name, {node.get("refuri", "").split("#")[0] for node in links}


def links(app, docname, names):
    """Yield a link to each page, by its title, of exercises by their number alone."""
    for name in names:
        title = app.env.titles[name].astext()
        short = title.split(":")[0] if title.startswith("Exercise ") else title
        uri = app.builder.get_relative_uri(docname, name)
        yield nodes.reference("", short, refuri=uri, internal=True)


def list_citations(app, doctree, docname):
    """In place of citations as docutils has them, whose ARIA role is deprecated."""
    found = list(doctree.findall(nodes.citation))
    if not found:
        return
    pages = dict(pages_with_links(app))
    entries = {entry.citation_id: entry for entry in app.env.get_domain("cite").citations}
    for node in found:
        entry = entries[node["ids"][0]]
        label, text = node.children
        text[:0] = [nodes.strong("", f"[{label.astext()}]"), nodes.Text(" ")]
        url = entry.entry.fields["url"]
        citing = [name for name, urls in pages.items() if url in urls]
        for place, link in enumerate(links(app, docname, citing)):
            text += [nodes.Text(", " if place else " Cited in: "), link]
        item = nodes.list_item("", text, ids=node["ids"])
        node.replace_self(item)
    for box in {item.parent for item in doctree.findall(nodes.list_item) if item.get("ids")}:
        box.replace_self(nodes.bullet_list("", *box.children))


def setup(app):
    # What other pages cite may have changed.
    app.connect("env-updated", lambda app, env: pages_with_bibliography(env))
    app.connect("doctree-resolved", list_citations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def pages_with_bibliography(env):
    return {key.docname for key in env.get_domain("cite").bibliographies}
