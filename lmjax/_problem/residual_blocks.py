"""`ResidualBlocks`: many small residuals, each of a few rows of the parameters."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lmjax import losses
from lmjax._errors.checks import check_real
from lmjax._jax import arrays
from lmjax._jax.closures import as_pytree


def _as_callable(fn: Any) -> Any:
    return as_pytree(fn) if callable(fn) and not isinstance(fn, type) else fn


def _as_loss(loss: Any) -> Any:
    if loss is None or loss in ("linear", losses.linear):
        return None
    if not callable(loss) and loss not in losses.NAMES:
        raise ValueError(
            f"loss: expected one of {', '.join(losses.NAMES)}, or a function; "
            f"got {loss!r}"
        )
    return as_pytree(loss if callable(loss) else getattr(losses, loss))


class ResidualBlocks(eqx.Module):
    """Residuals of one kind, each a function of a few rows of the parameters.

    Reprojections, odometry, loop closures, priors: what `least_squares` takes in place
    of a residual function, alone or as a list. J is never formed as a matrix; its
    blocks come from autodiff of ``fn``, in the mode that takes fewer passes.

    Args:
        fn: ``fn(params, *args)`` is the residual of ONE block, an array. ``params`` has
            the structure of ``params0`` with the rows of this block in place of the
            leaves that ``at`` names.
        at: For each leaf that the blocks pick from, the rows (first axis) that they
            see: integers of shape (k,), or (k, j) for j rows at once, which ``fn`` sees
            as (j, ...). Named as ``params0`` is. Leaves that are left out are shared:
            every block sees them whole.
        args: Data of the blocks: pytrees of arrays with a first axis of k.
        sigma: Standard deviations: a number, or an array that broadcasts to (k,) or to
            k residuals.
        mask: Flags (k,) of the blocks that count; the others may hold NaN.
        loss: Robust loss of a whole block: a function ``rho(z)`` of ``z = |r|^2 /
            loss_scale^2``, or the name of one in ``lmjax.losses``. The cost of a block
            is ``loss_scale^2 rho(z) / 2``, as in Ceres and g2o.
        loss_scale: Norm of a residual at which it starts to count less.

    Raises:
        TypeError: If ``fn`` is no function, or rows are no integers.
        ValueError: If shapes do not fit together; the message names the argument.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> def spring(p, length):
        ...     return p["x"][1] - p["x"][0] - length
        >>> ends = jnp.array([[0, 1], [1, 2], [0, 2]])
        >>> springs = lmjax.ResidualBlocks(
        ...     spring, {"x": ends}, (jnp.array([1.0, 1.0, 2.3]),)
        ... )
        >>> first = {"x": jnp.array([True, False, False])}
        >>> sol = lmjax.least_squares(springs, {"x": jnp.zeros(3)}, fixed=first)
        >>> print(jnp.round(sol.params["x"], 3))
        [0.  1.1 2.2]

    References:
        Triggs, McLauchlan, Hartley, Fitzgibbon (1999), "Bundle adjustment: a modern
        synthesis", section 4.3, for robust losses of blocks.
    """

    fn: Callable = eqx.field(converter=_as_callable)
    at: Any = eqx.field(converter=lambda at: arrays.arrays_of("at", at))
    args: tuple = ()
    sigma: Any = eqx.field(default=None, kw_only=True)
    mask: Any = eqx.field(default=None, kw_only=True)
    loss: Any = eqx.field(default=None, kw_only=True, converter=_as_loss)
    loss_scale: Any = eqx.field(default=1.0, kw_only=True)

    def __check_init__(self):
        if not callable(self.fn):
            raise TypeError(f"fn: expected a function, got {self.fn!r}")
        if not isinstance(self.args, tuple | list):
            raise TypeError(
                f"args: expected a tuple, got {type(self.args).__name__}; for one "
                "argument write (data,)"
            )
        check_real("loss_scale", self.loss_scale)
        counts = {
            name: jnp.shape(leaf)[0] if jnp.ndim(leaf) else None
            for name, leaf in self._counted()
        }
        if not jax.tree.leaves(self.at):
            raise ValueError(
                "at: expected rows of at least one leaf of params0, got none"
            )
        for path, rows in jax.tree_util.tree_leaves_with_path(self.at):
            name = f"at{jax.tree_util.keystr(path)}"
            kind = np.asarray(rows) if not isinstance(rows, Tracer) else rows
            if not jnp.issubdtype(kind.dtype, jnp.integer):
                raise TypeError(f"{name}: expected integers, got {kind.dtype}")
            if kind.ndim not in (1, 2) or 0 in kind.shape:
                raise ValueError(
                    f"{name}: expected rows of shape (k,) or (k, j), got {kind.shape}"
                )
        first, count = next(iter(counts.items()))
        for name, other in counts.items():
            if other != count:
                raise ValueError(
                    f"{name}: expected a first axis of {count} like {first}, got "
                    f"{'a number' if other is None else other}"
                )

    def _counted(self):
        """Yield what has one entry per block, with its name."""
        for name in ("at", "args", "mask"):
            tree = getattr(self, name)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                yield name + jax.tree_util.keystr(path), leaf

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return jnp.shape(jax.tree.leaves(self.at)[0])[0]

    def native(self) -> "ResidualBlocks":
        """Return the same with arrays that jax reads as NumPy does."""
        change = lambda name: arrays.leaves_of(name, getattr(self, name))
        values = {n: change(n) for n in ("at", "args", "sigma", "mask")}
        return ResidualBlocks(
            self.fn,
            values["at"],
            tuple(values["args"]),
            sigma=values["sigma"],
            mask=values["mask"],
            loss=self.loss,
            loss_scale=self.loss_scale,
        )
