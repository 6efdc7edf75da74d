"""SciPy's own signatures over the same solver: change one import and a script moves.

    from lmjax.scipy import curve_fit        # instead of scipy.optimize

`curve_fit`, `least_squares` and `leastsq` take what SciPy's take, raise and warn where
SciPy does, and count, name and scale what they return as SciPy does. They compute in
float64, whatever the settings of JAX, and see every call anew: a global, an attribute
or an array that has changed since the last call counts.

What differs:

- A model is called once per fit, with traced parameters: it is written in
  ``jax.numpy``. All else that it sees (x, y, args, kwargs, globals) keeps the value
  and the type that it has, so flags, strings and ``range(n)`` work.
- Derivatives are exact. Keywords that tune difference quotients (``diff_step``,
  ``epsfcn``, ``workers``, names of schemes) are accepted and have no effect.
- There is one algorithm, whatever ``method`` says; ``method`` decides what may be asked
  for, and the meaning of ``gtol`` and ``optimality``. Steps are invariant to the units
  of the parameters, so ``x_scale``, ``diag``, ``factor``, ``tr_solver`` and
  ``tr_options`` have no effect either.
- A fit that only seems to have converged (parameters that run away, a plateau) fails.
  A parameter that the data do not determine, or that a bound holds, has an infinite
  variance.
- Sparse Jacobians, ``jac_sparsity`` and ``LinearOperator`` are refused.
"""

from lmjax.scipy._curve_fit import curve_fit as curve_fit
from lmjax.scipy._least_squares import least_squares as least_squares
from lmjax.scipy._leastsq import leastsq as leastsq
