"""A folder that keeps the finished chunks of a long job.

``job.json`` says what the job is; each chunk is a file of its own. A file is written
whole, brought to the disk and only then given its name, so that neither a killed
process nor a power cut leaves half a file under it. A lock keeps out other calls.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import jax
import numpy as np

from lmjax._batch import folders
from lmjax._batch.lock import locked
from lmjax._batch.packing import RowType
from lmjax._errors.warn import warn
from lmjax._jax.program_hash import without_addresses

MANIFEST = "job.json"
# Version of job.json and of the chunk files; folders of another version are refused.
FORMAT = 2
# What makes two jobs the same, and how messages call it.
WORDS = {
    "fits": "the number of fits",
    "x64": "jax_enable_x64",
    "data": "names, shapes or dtypes of the data",
    "results": "names, shapes or dtypes of what fit_one returns",
    "structure": "the structure of what fit_one returns",
    "fit_one": "what fit_one computes (its code, or numbers it holds)",
}

# NumPy parses the header of each array as Python source, which CPython 3.11 cannot do
# in two threads at once if the garbage collector runs (SystemError, AST constructor
# recursion depth mismatch); fit_batch loads its chunks in several.
_reading = Lock()


class Checkpoint:
    """Finished chunks of one `lmjax.fit_batch` job, one file each.

    Made by `opened`.

    Args:
        folder: Where the files are.
        job: What the job is, as `describe` says it; another one there is refused.
        results: Shapes and dtypes of one row of the results.

    Raises:
        ValueError: If the folder holds another job, or chunks of an unknown one.
    """

    def __init__(self, folder: Path, job: dict[str, Any], results: RowType):
        self.folder = folder
        self.job = job
        self.results = results
        self.damaged: list[str] = []
        self.chunk_size: int | None = None
        # before the manifest is looked for: another process may be beginning the job
        chunks = any(folder.glob("chunk_*.npz"))
        if (folder / MANIFEST).exists():
            self.chunk_size = self._compare(self._manifest())
        elif chunks:
            raise ValueError(
                f"checkpoint: {folder} holds chunks but no {MANIFEST}, which says "
                "whose they are; delete the folder, or name another one"
            )

    def _manifest(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            found = json.loads(path.read_bytes())
            known = found.get("format", 1)
            if known == FORMAT:
                _ = int(found["chunk_size"]), [found[name] for name in self.job]
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(
                f"checkpoint: {path} is damaged, and nothing else says whose chunks "
                "these are; delete the folder, or name another one"
            ) from error
        if known != FORMAT:
            raise ValueError(
                f"checkpoint: {self.folder} was written in format {known}, this "
                f"version of lmjax writes format {FORMAT}; name another folder"
            )
        return found

    def _compare(self, found: dict[str, Any]) -> int:
        """Return the chunk size of the job that was found, if it is this one."""
        differences = []
        for name, words in WORDS.items():
            there, here = found[name], self.job[name]
            if there != here:
                plain = name not in ("structure", "fit_one")
                values = f" ({_shortened(there)} there, {_shortened(here)} here)"
                differences.append(words + values * plain)
        if differences and found["jax"] != self.job["jax"]:
            differences.append(f"jax ({found['jax']} there, {self.job['jax']} here)")
        if differences:
            raise ValueError(
                f"checkpoint: {self.folder} holds another job, which differs in "
                + "; ".join(differences)
                + ". Name another folder for this job, or delete that one"
            )
        return int(found["chunk_size"])

    def begin(self, chunk_size: int) -> None:
        """Write down the job, or raise if it was begun with other chunks."""
        if self.chunk_size not in (None, chunk_size):
            raise ValueError(
                f"checkpoint: {self.folder} was begun with chunk_size "
                f"{self.chunk_size}, got {chunk_size}; leave chunk_size out, and "
                "use as many devices as then"
            )
        if self.chunk_size is None:
            content = json.dumps(self.job | {"chunk_size": chunk_size}, indent=1)
            self._write(MANIFEST, content.encode())
        self.chunk_size = chunk_size

    @property
    def digest(self) -> str:
        """A hash of the job, stored in each of its chunks."""
        content = json.dumps([self.job[name] for name in WORDS], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def load(self, start: int, checksum: int) -> list[np.ndarray] | None:
        """Return a finished chunk, or None if there is none that can be read.

        Raises:
            ValueError: If it belongs to another job, or to data of another checksum
                than ``checksum``.
        """
        name = f"chunk_{start:012d}.npz"
        try:
            content = (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        try:
            job, found, leaves = self._parse(content)
        except Exception:  # a damaged file ends in errors of many kinds
            self.damaged.append(name)
            return None
        if job != self.digest:
            raise ValueError(
                f"checkpoint: {name} in {self.folder} belongs to another job; delete it"
            )
        if found != checksum:
            raise ValueError(
                f"checkpoint: the data of {name} in {self.folder} were others; name "
                "another folder for these data, or delete that one"
            )
        return leaves

    def _parse(self, content: bytes) -> tuple[str, int, list[np.ndarray]]:
        if zipfile.ZipFile(io.BytesIO(content)).testzip() is not None:
            raise ValueError
        with _reading, np.load(io.BytesIO(content), allow_pickle=False) as file:
            raw = [file[f"leaf_{k}"] for k in range(len(self.results.leaves))]
            job, checksum = str(file["job"]), int(file["mark"])
        shapes = [(self.chunk_size, *leaf.shape) for leaf in self.results.leaves]
        parts = zip(raw, self.results.leaves, shapes, strict=True)
        return job, checksum, [a.view(leaf.dtype).reshape(s) for a, leaf, s in parts]

    def save(self, start: int, checksum: int, leaves: list[np.ndarray]) -> None:
        """Keep a finished chunk: the whole file or none at all.

        Raises:
            TypeError: If it is not of the dtypes that the job has.
        """
        for leaf, expected in zip(leaves, self.results.leaves, strict=True):
            if leaf.dtype != expected.dtype:
                raise TypeError(
                    f"checkpoint: expected results of {expected.dtype}, got "
                    f"{leaf.dtype} from fit {start} on; integers of the data beyond 32 "
                    "bits become float32, convert all of them first"
                )
        arrays: dict[str, Any] = {
            # as bytes: NumPy's files know no bfloat16
            f"leaf_{k}": np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
            for k, leaf in enumerate(leaves)
        }
        content = io.BytesIO()
        np.savez(content, job=np.array(self.digest), mark=np.array(checksum), **arrays)
        self._write(f"chunk_{start:012d}.npz", content.getvalue())

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        part = path.with_name(f"{name}.part{jax.process_index()}")
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            folders.sync(self.folder)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise folders.unwritable(self.folder, error) from error

    def sweep(self) -> None:
        """Remove what a killed process left half written."""
        for part in self.folder.glob(f"*.part{jax.process_index()}"):
            part.unlink()

    def report(self) -> None:
        """Warn of the chunks that were damaged and have been computed again."""
        if self.damaged:
            warn(
                f"checkpoint: damaged chunks in {self.folder} were computed again: "
                + ", ".join(sorted(self.damaged))
            )


@contextmanager
def opened(
    folder: str | Path, job: dict[str, Any], results: RowType
) -> Iterator[Checkpoint]:
    """Open the folder of a job and lock it against other calls.

    Raises:
        OSError: If it cannot be made or written.
        RuntimeError: If another call has it.
        ValueError: If it holds another job.
    """
    folder = Path(folder)
    try:
        folders.make(folder)
        lock = os.open(
            folder / f"job{jax.process_index()}.lock", os.O_RDWR | os.O_CREAT, 0o666
        )
    except OSError as error:
        raise folders.unwritable(folder, error) from error
    with locked(lock, folder):
        saved = Checkpoint(folder, job, results)
        try:
            saved.sweep()
        except OSError as error:
            raise folders.unwritable(folder, error) from error
        yield saved


def describe(size: int, row: RowType, results: RowType, program: str) -> dict[str, Any]:
    """Return what a job is, for its folder."""
    return {
        "format": FORMAT,
        "jax": jax.__version__,
        "fits": size,
        "x64": jax.dtypes.canonicalize_dtype(np.float64) == np.float64,
        "data": row.describe(),
        "results": results.describe(),
        "structure": without_addresses(str(results.structure)),
        "fit_one": program,
    }


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:200] + "..."
