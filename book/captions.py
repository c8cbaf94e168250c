"""Puts each picture's caption below it, for JupyterLab and code hosts: `python book/captions.py`.

The book takes captions from the metadata of the cells, which nothing else shows. Here each stands
once more in a Markdown cell of its own, which the book leaves out by its tag. `make notebooks`
calls this.
"""

import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell

TAG = "remove-cell"


def with_captions(nb):
    """Returns the notebook's cells, captions written anew."""
    cells = []
    for cell in nb.cells:
        if cell.cell_type == "markdown" and TAG in cell.metadata.get("tags", []):
            continue
        cells.append(cell)
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if cell.cell_type == "code" and figure:
            # The same at each call: the cell's id is that of its picture.
            text = f"*{figure['caption']}*"
            cells.append(
                new_markdown_cell(text, id=f"caption-{cell.id}"[:64], metadata={"tags": [TAG]})
            )
    return cells


def main(paths):
    for path in paths:
        nb = nbformat.read(path, as_version=4)
        nb.cells = with_captions(nb)
        nbformat.write(nb, path)


if __name__ == "__main__":
    folder = Path(__file__).parent
    main(sys.argv[1:] or [*folder.glob("*.ipynb"), *folder.glob("studies/*.ipynb")])
