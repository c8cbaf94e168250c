"""The four files of Fashion-MNIST: found, checked, downloaded.

`python -m d2l_utils` brings them; with `--check` it only says whether they are there.
"""

import gzip
import hashlib
import os
import tempfile
from pathlib import Path

import torch

__all__ = ["FILES", "HOW_TO_GET_IT", "download", "find_folder", "load", "read_file"]

# The files of the official data set, with the MD5 of their uncompressed content: the .gz files of
# different distributors differ.
FILES = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


HOW_TO_GET_IT = """Fashion-MNIST was not found. Any one of these brings it:
  - apt-get install dataset-fashion-mnist     (Debian and Ubuntu)
  - python -m d2l_utils                       (downloads it with torchvision; needs the network)
  - put the four files, as they are or as .gz, into a folder and set D2L_DATA to it,
    or give it as FashionMNIST(root=...)"""


def load(root) -> list[torch.Tensor]:
    """Return training images, training labels, test images and test labels."""
    folder = find_folder(root) or download(root)
    contents = {name: read_file(folder, name) for name in FILES}
    tensors = []
    for name, content in contents.items():
        # An IDX file: 4 bytes of type, 4 bytes a dimension, then the data.
        is_images = "images" in name
        raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        tensors.append(raw[16:].view(-1, 28, 28) if is_images else raw[8:].long())
    return tensors


def find_folder(root=None) -> Path | None:
    """Return the first folder that holds all four files, or None."""
    for place in _places(root):
        for folder in (place, place / "FashionMNIST" / "raw"):
            if all(_path(folder, name) for name in FILES):
                return folder
    return None


def _places(root) -> list[Path]:
    named = [root, os.environ.get("D2L_DATA")]
    return [Path(p).expanduser() for p in named if p] + [_repository_data(), DEBIAN_FOLDER]


def _repository_data() -> Path:
    """Return `data/` of the repository, or below the current folder if there is no repository."""
    repository = Path(__file__).parents[1]
    return (repository if (repository / "_toc.yml").exists() else Path.cwd()) / "data"


def _path(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((p for p in candidates if p.is_file()), None)


def read_file(folder: Path, name: str) -> bytes:
    """Return the uncompressed content of a file; a ValueError names one that is not whole."""
    path = _path(folder, name)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, gzip.zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}); {_MEND}") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != FILES[name]:
        raise ValueError(f"{path} is truncated or altered: its MD5 is not {FILES[name]}; {_MEND}")
    return content


_MEND = "delete it and bring the data set again with: python -m d2l_utils"


def download(root=None) -> Path:
    """Download the data set with torchvision and return the folder it lies in.

    It arrives in a temporary folder beside the final one and is renamed file by file when it is
    whole, so an interrupted download leaves nothing behind and two processes do no harm.

    Raises:
        FileNotFoundError: if it cannot be downloaded.
    """
    target = _places(root)[0] / "FashionMNIST" / "raw"
    try:
        from torchvision import datasets

        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as temporary:
            datasets.FashionMNIST(temporary, download=True)
            source = Path(temporary) / "FashionMNIST" / "raw"
            for name in FILES:
                read_file(source, name)
                os.replace(source / name, target / name)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise FileNotFoundError(f"{HOW_TO_GET_IT}\nThe download failed: {error}") from error
    return target
