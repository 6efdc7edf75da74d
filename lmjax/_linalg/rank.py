"""Which singular values are zero but for rounding: the rule of every pseudo-inverse."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lmjax._jax.types import Scalar


def rounding_share(dtype: Any, size: int) -> float:
    """Return the share of the largest singular value below which one is rounding.

    ``eps`` times the larger of the numbers of rows and columns, as in LAPACK and NumPy.

    Args:
        dtype: Of the matrix.
        size: The larger of the numbers of rows and columns.

    References:
        Golub and Van Loan, Matrix Computations, 4th edition, section 5.4.1.
    """
    return float(jnp.finfo(dtype).eps) * size


def inverse_singular_values(
    s: Float[Array, " n"], share: Scalar | float, at_least: float = 0.0
) -> tuple[Float[Array, " n"], Bool[Array, " n"]]:
    """Return ``1 / s``, or 0 where s is rounding, and which are more than that.

    Args:
        s: Singular values.
        share: See `rounding_share`; more where the matrix itself is uncertain.
        at_least: What the largest singular value of the matrix was before its rounding.
    """
    kept = s > share * jnp.maximum(jnp.max(s), at_least)
    return jnp.where(kept, 1.0 / jnp.where(kept, s, 1.0), 0.0), kept
