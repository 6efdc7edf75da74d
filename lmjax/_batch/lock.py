"""A lock on a folder that the operating system releases when its process dies."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmjax._errors.warn import warn

# Errors of file systems without locks, such as some network file systems.
_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def locked(file: int, folder: Path) -> Iterator[None]:
    """Hold the lock of an open file, which is closed in the end.

    Threads exclude one another as processes do: each opens the file for itself.

    Raises:
        RuntimeError: If another call holds it.
    """
    try:
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise RuntimeError(
                    f"checkpoint: {folder} is in use by another call of fit_batch"
                    f"{_holder(file)}; wait for it, or name another folder"
                ) from error
            warn(
                f"checkpoint: {folder} cannot be locked on this file system; take care "
                "that only one call uses it"
            )
        with suppress(OSError):  # for the message only
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, str(os.getpid()).encode())
        yield
    finally:
        os.close(file)


def _lock(file: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows, where the lock is on the first byte
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore  # not on this system
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(file: int) -> str:
    """Return which process holds the lock, as far as it said so."""
    with suppress(OSError):
        process = os.read(file, 20).decode(errors="replace")
        return f" (process {process})" if process.isdigit() else ""
    return ""
