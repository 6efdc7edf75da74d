"""Nonlinear least squares by Levenberg-Marquardt, in JAX.

Write the residual once; fit one curve or a million without changing it.
"""

from lmjax import likelihoods as likelihoods
from lmjax import losses as losses
from lmjax import models as models
from lmjax._block_statistics import CovarianceBlocks as CovarianceBlocks
from lmjax._bootstrap import Bootstrap as Bootstrap
from lmjax._bootstrap import bootstrap as bootstrap
from lmjax._convolve import convolve as convolve
from lmjax._curve_fit import curve_fit as curve_fit
from lmjax._damping import Classical as Classical
from lmjax._damping import Fixed as Fixed
from lmjax._damping import Nielsen as Nielsen
from lmjax._explain import explain as explain
from lmjax._fit_batch import fit_batch as fit_batch
from lmjax._fitted import CurveFit as CurveFit
from lmjax._global_fit import global_fit as global_fit
from lmjax._global_result import GlobalFit as GlobalFit
from lmjax._implicit import Implicit as Implicit
from lmjax._least_squares import least_squares as least_squares
from lmjax._linear_solvers import CG as CG
from lmjax._linear_solvers import QR as QR
from lmjax._linear_solvers import SVD as SVD
from lmjax._linear_solvers import Cholesky as Cholesky
from lmjax._linear_solvers import Dual as Dual
from lmjax._linear_solvers import Schur as Schur
from lmjax._profile import Profile as Profile
from lmjax._profile import profile as profile
from lmjax._ragged import pad_ragged as pad_ragged
from lmjax._result import DerivativeCheck as DerivativeCheck
from lmjax._result import FitError as FitError
from lmjax._result import History as History
from lmjax._result import Solution as Solution
from lmjax._retry import multi_start as multi_start
from lmjax._retry import rescue as rescue
from lmjax._solver import LevenbergMarquardt as LevenbergMarquardt
from lmjax._status import Engine as Engine
from lmjax._status import ParamStatus as ParamStatus
from lmjax._status import ProfileStatus as ProfileStatus
from lmjax._status import Status as Status
from lmjax._unrolled import OneStep as OneStep
from lmjax._unrolled import Unrolled as Unrolled

__version__ = "0.1.0"
