"""Array and pytree aliases shared by every module."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Bool, Float

Scalar = Float[Array, ""]
Flag = Bool[Array, ""]

Params = Any  # a pytree of floating arrays, as the user wrote it
ResidualFn = Callable[..., Any]  # residual_fn(params, *args) -> array or pytree
