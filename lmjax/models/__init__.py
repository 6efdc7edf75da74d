"""Models for `curve_fit`, each a callable Module that can guess its own start.

>>> import jax.numpy as jnp, lmjax
>>> t = jnp.linspace(0.0, 4.0, 9)
>>> y = 2.0 * jnp.exp(-0.7 * t) + 0.5
>>> fit = lmjax.curve_fit(lmjax.models.Exponential.guess(t, y), t, y)
>>> print(f"{fit.params.rate:.3f}")
0.700

Without ``params0`` the floating fields of the Module are the start and ``fit.params``
is the fitted Module, called as ``fit.params(x)``. ``lmjax.models.Exponential(
amplitude=1.0, rate=0.5, offset=0.0)`` sets them by hand, ``a + b`` composes two models
(see `Sum`), and a subclass of `Model` is one more.

``guess(x, y)`` works under ``jax.jit`` and ``jax.vmap``. It never fails or returns
anything but finite numbers, in the dtype of y:

- order of the points and repeated x do not matter;
- points where x or y is NaN or infinite are skipped (pass ``nan_policy="omit"`` to the
  fit, which handles NaN in y);
- integers are cast; negative values are taken as they are;
- where the data leave a parameter open (constant or zero curves, no valid point, fewer
  points than parameters), amplitudes are 0 or those of a simpler curve, offsets the
  mean, and the rest some value inside the range that x suggests;
- levels are bounded by what the data can tell: of a sigmoid that has hardly begun to
  rise the points see at least a tenth of the height;
- no points at all (an empty y) is a ValueError.

A start for counts, probabilities or magnitudes is one that their likelihood allows:
where no y is negative the curve is above zero at the points (where all y are in [0, 1],
below 1, too: for `Binomial` pass ``y / trials``). With read noise pass
``jnp.maximum(y, 0)``. The exceptions are curves that are zero themselves: peaks far
from their centre, which need a background, `DampedSine`, which needs an offset, and a
dose or concentration of zero.

Values and derivatives of every model are finite for all finite parameters short of the
overflow of the result itself: ratios and exponents are cut where the curve no longer
changes. Fields are not forced to be positive: use bounds where it matters.
"""

from lmjax.models._model import Model as Model
from lmjax.models._model import Product as Product
from lmjax.models._model import Sum as Sum
from lmjax.models.decays import BiExponential as BiExponential
from lmjax.models.decays import Exponential as Exponential
from lmjax.models.decays import PowerLaw as PowerLaw
from lmjax.models.decays import StretchedExponential as StretchedExponential
from lmjax.models.diffusion import IVIM as IVIM
from lmjax.models.diffusion import Diffusion as Diffusion
from lmjax.models.doseresponse import Hill as Hill
from lmjax.models.doseresponse import Logistic4 as Logistic4
from lmjax.models.doseresponse import Logistic5 as Logistic5
from lmjax.models.growth import GompertzGrowth as GompertzGrowth
from lmjax.models.growth import LogisticGrowth as LogisticGrowth
from lmjax.models.kinetics import CompetitiveInhibition as CompetitiveInhibition
from lmjax.models.kinetics import MichaelisMenten as MichaelisMenten
from lmjax.models.peaks import Gaussian as Gaussian
from lmjax.models.peaks import Lorentzian as Lorentzian
from lmjax.models.peaks import PseudoVoigt as PseudoVoigt
from lmjax.models.peaks import Voigt as Voigt
from lmjax.models.polynomial import Polynomial as Polynomial
from lmjax.models.relaxation import InversionRecovery as InversionRecovery
from lmjax.models.relaxation import (
    MagnitudeInversionRecovery as MagnitudeInversionRecovery,
)
from lmjax.models.relaxation import T2Decay as T2Decay
from lmjax.models.relaxation import VariableFlipAngle as VariableFlipAngle
from lmjax.models.spots import EllipticGaussian2D as EllipticGaussian2D
from lmjax.models.spots import Gaussian2D as Gaussian2D
from lmjax.models.spots import RotatedGaussian2D as RotatedGaussian2D
from lmjax.models.waves import DampedSine as DampedSine
