"""How far a batch has come: fits per second, time left, how many ended how."""

import sys
import time
from typing import Any, Self

import numpy as np

import lmjax


class Progress:
    """A line on standard error that is drawn anew with every chunk.

    Nothing is drawn where standard error is no terminal, or tqdm is not installed.
    """

    def __init__(self, size: int, quiet: bool):
        self.size, self.quiet = size, quiet or not sys.stderr.isatty()
        self.counts: dict[str, int] = {}
        self.bar: Any = None
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self.began = time.perf_counter()
        if not self.quiet:
            try:
                from tqdm import tqdm
            except ImportError:
                return self
            self.bar = tqdm(total=self.size, unit="fit", unit_scale=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self.began
        if self.bar is not None:
            self.bar.close()

    def count(self, results: dict[str, np.ndarray]) -> None:
        """Count a chunk."""
        if self.bar is None:
            return
        codes, counts = np.unique(results["status"], return_counts=True)
        for code, count in zip(codes, counts, strict=True):
            name = lmjax.Status(int(code)).name
            self.counts[name] = self.counts.get(name, 0) + int(count)
        self.bar.set_postfix(self.counts, refresh=False)
        self.bar.update(len(results["status"]))
