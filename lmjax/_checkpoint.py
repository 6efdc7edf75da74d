"""A folder that keeps the finished chunks of a long job."""

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any

import jax
import numpy as np

MANIFEST = "job.json"

# NumPy parses the header of each array as Python source, which CPython 3.11 cannot do
# in two threads at once if the garbage collector runs (SystemError, AST constructor
# recursion depth mismatch); fit_batch loads its chunks in several.
_reading = Lock()


class Checkpoint:
    """Finished chunks of one `lmjax.fit_batch` job, one file each.

    Args:
        folder: Where the files are; made if it is missing.
        size: Number of fits of the job.
        data: Its data, of which shapes and dtypes are compared.

    Raises:
        ValueError: If the folder holds another job.
    """

    def __init__(self, folder: str | Path, size: int, data: Any):
        self.folder = Path(folder)
        self.job = {
            "fits": size,
            "rows": [[list(x.shape[1:]), str(x.dtype)] for x in jax.tree.leaves(data)],
        }
        self.chunk_size: int | None = None
        manifest = self.folder / MANIFEST
        if manifest.exists():
            found = json.loads(manifest.read_text())
            self.chunk_size = found.pop("chunk_size")
            if found != self.job:
                raise ValueError(
                    f"checkpoint: {self.folder} holds another job, {found}; expected "
                    f"{self.job}"
                )

    def begin(self, chunk_size: int) -> None:
        """Write down the job, or raise if it was begun with other chunks."""
        if self.chunk_size not in (None, chunk_size):
            raise ValueError(
                f"checkpoint: {self.folder} was begun with chunk_size "
                f"{self.chunk_size}, got {chunk_size}"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.job | {"chunk_size": chunk_size})
        _write(self.folder / MANIFEST, lambda file: file.write(content.encode()))

    def _path(self, start: int) -> Path:
        return self.folder / f"chunk_{start:012d}.npz"

    def load(self, start: int, mark: int) -> list[np.ndarray] | None:
        """Return a finished chunk, or None if there is none.

        Raises:
            ValueError: If its data were others; ``mark`` is their checksum.
        """
        path = self._path(start)
        if not path.exists():
            return None
        with _reading, np.load(path, allow_pickle=False) as file:
            if int(file["mark"]) != mark:
                raise ValueError(
                    f"checkpoint: the data of {path.name} in {self.folder} were others"
                )
            return [file[f"leaf_{k}"] for k in range(len(file.files) - 1)]

    def save(self, start: int, mark: int, leaves: list[np.ndarray]) -> None:
        """Keep a finished chunk: the whole file or none at all."""
        arrays: dict[str, Any] = {f"leaf_{k}": leaf for k, leaf in enumerate(leaves)}
        arrays["mark"] = mark
        _write(self._path(start), lambda file: np.savez(file, **arrays))


def _write(path: Path, content) -> None:
    part = path.with_suffix(f".part{os.getpid()}")
    with part.open("wb") as file:
        content(file)
    part.replace(path)
