"""The four files of Fashion-MNIST: found, checked, fetched.

`python -m d2l_utils` fetches them; with `--check` it only says whether they are there.
"""

import gzip
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["FILES", "HOW_TO_GET_IT", "fetch", "find_folder", "load", "read_file"]

# The files of the official data set, with the SHA-256 of their uncompressed content: the .gz files
# of different distributors differ. Of what it downloads torchvision checks the MD5, too.
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

HOW_TO_GET_IT = """Fashion-MNIST was not found. Any one of these gets it:
  - python -m d2l_utils                       (downloads it; needs the network)
  - apt-get install dataset-fashion-mnist     (Debian and Ubuntu)
  - put the four files, as they are or as .gz, into a folder and set D2L_DATA to it,
    or give it as FashionMNIST(root=...)"""
_MEND = "delete it and fetch the data set again with: python -m d2l_utils"


def load(root) -> list[torch.Tensor]:
    """Return training images, training labels, test images and test labels."""
    folder = find_folder(root) or fetch(root)
    tensors = []
    for name in FILES:
        # An IDX file: 4 bytes of type, 4 bytes per dimension, then the data.
        content = torch.frombuffer(bytearray(read_file(folder, name)), dtype=torch.uint8)
        is_images = "images" in name
        tensors.append(content[16:].view(-1, 28, 28) if is_images else content[8:].long())
    return tensors


def find_folder(root=None) -> Path | None:
    """Return the first folder that holds all four files, or None.

    Raises:
        FileNotFoundError: if `D2L_DATA` names no folder, or one without files that are elsewhere.
        PermissionError: if a folder cannot be searched.
    """
    variable = os.environ.get("D2L_DATA")
    for i, place in enumerate(_places(root)):
        for folder in (place, place / "FashionMNIST" / "raw"):
            if all(_path(folder, name) for name in FILES):
                if variable and i > bool(root):  # found in a place after its own
                    what = f"it must hold the data set, or be unset for the one in {folder}"
                    raise FileNotFoundError(f"D2L_DATA is {variable!r}; {what}")
                return folder
    return None


def _places(root) -> list[Path]:
    named = []
    for name, path in (("root", root), ("D2L_DATA", os.environ.get("D2L_DATA"))):
        if path:
            folder = Path(os.path.expanduser(path))
            # The root may be made later. `~somebody` stays where there is no such user.
            if str(folder).startswith("~") or (name == "D2L_DATA" and not folder.is_dir()):
                raise FileNotFoundError(f"{name} is {str(path)!r}; it must be a folder that exists")
            named.append(folder)
    return [*named, _repository_data(), DEBIAN_FOLDER]


def _repository_data() -> Path:
    """Return `data/` of the repository, or below the current folder if there is no repository."""
    repository = Path(__file__).parents[1]
    return (repository if (repository / "_toc.yml").exists() else Path.cwd()) / "data"


def _path(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        # From Python 3.14 on `path.is_file()` is False where one may not look.
        with suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISREG(path.stat().st_mode):
                return path
    return None


def read_file(folder: Path, name: str) -> bytes:
    """Return the uncompressed content of a file.

    Raises:
        ValueError: if it is not whole, or not the official one.
        PermissionError: if it cannot be read.
    """
    path: Path = _path(folder, name)  # type: ignore[assignment]
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}); {_MEND}") from error
    if hashlib.sha256(content).hexdigest() != FILES[name]:
        raise ValueError(f"{path} is truncated or altered, says its SHA-256; {_MEND}")
    return content


def fetch(root=None) -> Path:
    """Fetch the data set to the first place named, `data/` if none is, and return its folder.

    It arrives in a temporary folder beside the final one and is renamed file by file when it is
    whole: an interruption leaves no partial file, and two processes do no harm. If no way leads to
    it, a FileNotFoundError lists them.
    """
    target = _places(root)[0] / "FashionMNIST" / "raw"
    failures = []
    for what, way in (
        ("The download by torchvision", _from_torchvision),
        ("Unpacking the Debian package, without installing it,", _from_debian),
    ):
        try:
            target.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target) as temporary:
                source = way(Path(temporary))
                for name in FILES:
                    read_file(source, name)
                for name in FILES:
                    path: Path = _path(source, name)  # type: ignore[assignment]
                    os.replace(path, target / path.name)
            return target
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            failures.append(f"{what} failed: {error}")
    raise FileNotFoundError("\n".join([HOW_TO_GET_IT, *failures]))


def _from_torchvision(folder: Path) -> Path:
    from torchvision import datasets

    datasets.FashionMNIST(folder, download=True)
    return folder / "FashionMNIST" / "raw"


def _from_debian(folder: Path) -> Path:
    if not shutil.which("apt-get"):
        raise OSError("there is no apt-get")

    def run(*command):
        result = subprocess.run(command, cwd=folder, capture_output=True, encoding="locale")
        if result.returncode:
            raise OSError(result.stderr.strip() or f"{command[0]} ended with {result.returncode}")

    timeout = ("-o", "Acquire::http::Timeout=20")
    try:
        run("apt-get", "download", "-q", *timeout, DEBIAN_PACKAGE)
    except OSError:  # lists of what there is are missing or old; only root may renew the system's
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        own = ("-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache")
        run("apt-get", "update", "-q", *timeout, *own)
        run("apt-get", "download", "-q", *timeout, *own, DEBIAN_PACKAGE)
    (package,) = folder.glob("*.deb")
    run("dpkg", "-x", str(package), "unpacked")
    return folder / "unpacked" / DEBIAN_FOLDER.relative_to("/")
