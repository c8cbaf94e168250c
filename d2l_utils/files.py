"""Files that are written whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_write"]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which becomes `path` once all has gone well.

    Raises:
        OSError: if it cannot be written; it names the file, and how much room its disk has.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "new" / "numbers.txt"
    >>> with atomic_write(path) as part:
    ...     _ = part.write_text("1 2 3", "utf-8")
    >>> path.read_text("utf-8")
    '1 2 3'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        # torch raises a RuntimeError of its own where a file refuses what it writes.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        number = getattr(cause, "errno", None) or errno.EIO
        why = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
        room = f"its disk has {shutil.disk_usage(path.parent).free / 2**20:,.0f} MiB left"
        raise OSError(number, f"{why}; {room}", str(path)) from error
    finally:
        part.unlink(missing_ok=True)
