"""Bundle adjustment from a BAL file, ready for `least_squares`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np

from lmjax._problem.residual_blocks import ResidualBlocks
from lmjax.io._bal import BalFile, parse_bal, write_bal
from lmjax.io._camera import project
from lmjax.io._text import Name


class Bundle(eqx.Module):
    """Cameras, points and where they were seen, ready for `lmjax.least_squares`.

    Attributes:
        params: The start: ``{"cameras": (C, 9), "points": (P, 3)}``, NumPy arrays in
            float64. See `project` for the numbers of a camera.
        blocks: The reprojections, one block per observation, in pixels.
        manifold: None: rotations are rotation vectors, plain numbers.
        fixed: None: nothing is held.
        file: What the file holds, as NumPy arrays: ``camera_of``, ``point_of``,
            ``pixels``, ``cameras``, ``points``.
    """

    params: dict[str, np.ndarray]
    blocks: ResidualBlocks
    manifold: Any
    fixed: Any
    file: BalFile

    def write(self, path: Name, params: dict[str, Any]) -> None:
        """Write a BAL file with these cameras and points, and the same observations.

        Args:
            path: The file; compressed if its name ends in ``.bz2`` or ``.gz``.
            params: Cameras and points, as in ``params`` of a solution.

        Raises:
            ValueError: If shapes do not fit the file, or a number is not finite.
        """
        new = {name: np.asarray(params[name], float) for name in self.params}
        for name, old in self.params.items():
            if new[name].shape != old.shape:
                raise ValueError(
                    f"params[{name!r}]: expected shape {old.shape}, got "
                    f"{new[name].shape}"
                )
        write_bal(path, self.file._replace(**new))


def read_bal(
    path: Name, *, loss: str | Callable | None = None, loss_scale: Any = 1.0
) -> Bundle:
    r"""Return the bundle adjustment problem of a BAL file.

    The start is that of the file. Numbers are read in float64, and used in the
    precision that JAX is set to. Write ``jax.config.update("jax_enable_x64", True)``
    first: in float32 a pixel of a thousand is known to 1e-4 at best, and the end of
    the descent is lost in rounding.

    Reprojections do not tell where the scene stands, how it is turned and how large it
    is. Seven directions are therefore open. They do no harm: a damped step leaves them
    where they were. To close them, hold the first camera with ``fixed``.

    Args:
        path: The file; decompressed if its name ends in ``.bz2`` or ``.gz``.
        loss: Robust loss of an observation, as in `ResidualBlocks`.
        loss_scale: Reprojection error in pixels at which it starts to count less.

    Returns:
        A `Bundle`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not as its first line says; names the line.

    Example:
        >>> import pathlib, tempfile, lmjax.io
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "one.txt"
        >>> camera, point = "0 0 0 0 0 -4 500 0 0", "0.4 0.2 0.1"
        >>> lines = ["1 1 1", "0 0 50 25", camera, point]
        >>> _ = path.write_text("\n".join(lines))
        >>> bundle = lmjax.io.read_bal(path)
        >>> sol = lmjax.least_squares(bundle.blocks, bundle.params)
        >>> print(bool(sol.cost < 1e-6), sol.params["points"].shape)
        True (1, 3)
        >>> bundle.write(path, sol.params)

    References:
        Agarwal, Snavely, Seitz, Szeliski (2010), "Bundle adjustment in the large",
        ECCV.
    """
    file = parse_bal(path)
    blocks = ResidualBlocks(
        _reprojection,
        {"cameras": file.camera_of, "points": file.point_of},
        (file.pixels,),
        loss=loss,
        loss_scale=loss_scale,
    )
    params = {"cameras": file.cameras, "points": file.points}
    return Bundle(params, blocks, None, None, file)


def _reprojection(p, pixels):
    """Return by how many pixels a camera sees a point elsewhere than it was seen."""
    return project(p["cameras"], p["points"]) - pixels
