"""Elementary functions on vectors of lanes.

Each is an argument reduction and a polynomial, long enough for the last bit, in fused
multiply-adds. What is not here is asked of the C library, lane by lane.
"""

from typing import Any

from lmjax._engines.fused.error_function import ErrorFunction
from lmjax._engines.fused.hyperbolic import Hyperbolic
from lmjax._engines.fused.inverse_trigonometric import InverseTrigonometric
from lmjax._engines.fused.ir import Code
from lmjax._engines.fused.powers import Powers
from lmjax._engines.fused.trigonometric import Trigonometric

# Functions of the C library, which have the name of jax's with an "f" for float32.
LIBRARY = {"lgamma": "lgamma", "rem": "fmod"}
# Functions of two arguments; the others have one.
OF_TWO = ("pow", "atan2", "rem")
_OWN = (
    *("exp", "expm1", "exp2", "log", "log1p", "logistic", "pow", "cbrt"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc"),
)
# Of float32 these are made in float64: in float32 their steps lose more than the last
# bit, and few models ask for them.
_WIDENED = ("asinh", "acosh", "atanh", "erfc")


class Functions(Powers, Hyperbolic, ErrorFunction, Trigonometric, InverseTrigonometric):
    """The functions of one dtype, each written into a `Code`."""

    def names(self) -> tuple[str, ...]:
        """Return which there are."""
        return _OWN

    def write(self, name: str, code: Code, arguments: list[Any]) -> Any:
        """Return the value of a function."""
        if self.double or name not in _WIDENED:
            return getattr(self, name)(code, *arguments)
        wide = [code.emit("convert_element_type", [x], "float64") for x in arguments]
        y = code.call(name, wide, "float64")
        return code.emit("convert_element_type", [y], self.dtype)
