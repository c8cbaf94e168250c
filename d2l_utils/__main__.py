"""Fetches Fashion-MNIST and checks it: `python -m d2l_utils`."""

import argparse
import sys
from collections.abc import Sequence

from d2l_utils import fashion_mnist_files as files

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch and check the data set; return 0 if it is there and whole."""
    parser = argparse.ArgumentParser(
        prog="python -m d2l_utils", description="Fetch Fashion-MNIST and check it."
    )
    parser.add_argument("--root", help="folder to look in and to download to")
    parser.add_argument("--check", action="store_true", help="do not download")
    options = parser.parse_args(arguments)
    try:
        folder = files.find_folder(options.root)
        if folder is None and options.check:
            raise FileNotFoundError(files.HOW_TO_GET_IT)
        folder = folder or files.fetch(options.root)
        for name in files.FILES:
            files.read_file(folder, name)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Fashion-MNIST: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
