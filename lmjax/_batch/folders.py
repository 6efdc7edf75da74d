"""Folders whose files are safe after a power cut."""

import errno
import os
from pathlib import Path


def make(folder: Path) -> None:
    """Make a folder that survives a power cut: its entry is on the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync(path.parent)


def sync(folder: Path) -> None:
    """Write the names of a folder's files to the disk."""
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:  # some network file systems cannot
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(file)


def unwritable(folder: Path, error: OSError) -> OSError:
    """Return an error that says what is wrong with a folder, and what to do."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return OSError(
            error.errno or errno.ENOTDIR,
            f"checkpoint: {folder} is a file, expected a folder",
        )
    return OSError(
        error.errno or errno.EIO,
        f"checkpoint: {folder} cannot be written ({error.strerror or error}); chunks "
        "that are there are kept, so make room or set permissions and call again, or "
        "name another folder",
    )
