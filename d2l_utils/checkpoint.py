"""A run's state in a file: read, and recognised when it is damaged."""

import os
import zipfile

import torch

__all__ = ["read_checkpoint", "read_saved"]


def read_saved(path: str | os.PathLike):
    """Return what `torch.save` wrote to a file.

    Raises:
        ValueError: if it is damaged, or was not written so.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load checks no checksum, and takes what is marked as a folder for empty.
            folders = [part for part in archive.infolist() if part.external_attr & 16]
            if folders or archive.testzip():
                raise ValueError("a part of it is not what was written")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file has many ways to fail
        raise ValueError(f"{path} is damaged: {error}") from error


def read_checkpoint(path) -> dict:
    """Return the state that a trainer kept; a ValueError says that it is none, or damaged."""
    cause = None
    try:
        state = read_saved(path)
        if isinstance(state, dict) and "settings" in state:
            return state
    except ValueError as error:
        cause = error
    raise ValueError(
        f"{path} is no checkpoint of this trainer, or a damaged one; delete it to start anew"
    ) from cause
