"""Pytrees of arrays in a file: `save` and `load`."""

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def save(path: str | os.PathLike, fit: Any) -> None:
    """Write the arrays of a fit, or of any pytree, into a file.

    The file is an NPZ archive with one entry per array, named by its path in the
    pytree; ``numpy.load`` reads it, too. It replaces one of that name only once it is
    complete. Functions, such as a model, are not written: `load` takes them from
    ``like``.

    Args:
        path: Name of the file, used as it is.
        fit: What a fit returned, one or a batch, or a pytree of such.

    Raises:
        ValueError: If there is no array to write.

    Example:
        >>> import jax.numpy as jnp, lmjax, tempfile, pathlib
        >>> fit = lmjax.least_squares(lambda p: p - 3.0, jnp.zeros(1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "fit.npz"
        ...     lmjax.save(path, fit)
        ...     again = lmjax.load(path, fit)
        >>> print(again.params)
        [3.]
    """
    path, arrays = Path(path), {}
    for name, leaf in _arrays(fit).items():
        if not jnp.issubdtype(leaf.dtype, np.number) and leaf.dtype != np.bool_:
            raise ValueError(f"fit: expected numbers, got {leaf.dtype} at {name}")
        arrays[name] = np.asarray(leaf)
    if not arrays:
        raise ValueError(f"fit: expected a pytree with arrays, got {fit!r:.100}")
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def load(path: str | os.PathLike, like: Any) -> Any:
    """Return what `save` wrote, as a pytree like another.

    Args:
        path: The file.
        like: A result of the same kind: one fit, a batch of any size, or what
            ``jax.eval_shape`` says of it. What is no array, such as the model, is
            taken from here.

    Returns:
        The pytree with the arrays of the file, and as many fits as it holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else than ``like``; says what differs.

    Example:
        >>> import jax, jax.numpy as jnp, lmjax, tempfile, pathlib
        >>> fit_one = lambda y: lmjax.least_squares(lambda p: p - y, jnp.zeros(1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "fits.npz"
        ...     lmjax.save(path, jax.vmap(fit_one)(jnp.arange(3.0)))
        ...     fits = lmjax.load(path, like=fit_one(0.0))
        >>> print(len(fits), fits[2].params)
        3 [2.]
    """
    stored = _stored(Path(path))
    named = _arrays(like)
    for kind, names, others in (
        ("holds", stored, named),
        ("does not hold", named, stored),
    ):
        if odd := [name for name in names if name not in others]:
            raise ValueError(
                f"like: expected a result of the kind in {path}, which {kind} {odd[0]}"
            )
    for name in _misfits(stored, named):
        found, wanted = stored[name], named[name]
        raise ValueError(
            f"like: {path} holds {name} as {found.dtype}{list(found.shape)}, expected "
            f"{wanted.dtype}{list(wanted.shape)} or a batch of it"
        )
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    filled = [
        jnp.asarray(stored[_name(path)]) if _name(path) in stored else leaf
        for path, leaf in leaves
    ]
    return jax.tree.unflatten(structure, filled)


def _misfits(stored: dict[str, Any], named: dict[str, Any]) -> list[str]:
    """Return the names of arrays that are no batch of what is expected, or one of it.

    A batch has the same number of leading axes more in all arrays. Two batches differ
    in the first axis, all arrays alike.
    """
    pairs = {name: (array, named[name]) for name, array in stored.items()}
    more = {a.ndim - b.ndim for a, b in pairs.values()}
    lengths = [{pair[k].shape[:1] for pair in pairs.values()} for k in (0, 1)]
    batches = more == {0} and all(len(x) == 1 and x != {()} for x in lengths)

    def fits(a: Any, b: Any) -> bool:
        size = min(a.ndim, b.ndim) - batches
        tails = [x.shape[x.ndim - size :] for x in (a, b)]
        return len(more) == 1 and tails[0] == tails[1] and a.dtype == b.dtype

    return [name for name, pair in pairs.items() if not fits(*pair)]


def _stored(path: Path) -> dict[str, np.ndarray]:
    try:
        # opened here: NumPy leaves a file open that it cannot read
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"path: {path} is no file of lmjax.save ({type(error).__name__}: {error})"
        ) from error


def _arrays(tree: Any) -> dict[str, Any]:
    """Return the arrays and numbers of a pytree, or their shapes, by their paths."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, bool | int | float | complex):
            leaf = np.asarray(leaf)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            found[_name(path)] = leaf
    return found


def _name(path: Any) -> str:
    """Return the name of an entry."""
    return jax.tree_util.keystr(path) or "value"
