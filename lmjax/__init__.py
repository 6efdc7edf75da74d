"""Nonlinear least squares by Levenberg-Marquardt, in JAX.

Write the residual once; fit one curve or a million without changing it.
"""

from importlib import import_module as _import_module

from lmjax import _interrupt as _interrupt
from lmjax import likelihoods as likelihoods
from lmjax import losses as losses
from lmjax import manifolds as manifolds
from lmjax import models as models
from lmjax._batch.explain import explain as explain
from lmjax._batch.fit_batch import fit_batch as fit_batch
from lmjax._batch.retry import multi_start as multi_start
from lmjax._batch.retry import rescue as rescue
from lmjax._derivatives.implicit import Implicit as Implicit
from lmjax._derivatives.unrolled import OneStep as OneStep
from lmjax._derivatives.unrolled import Unrolled as Unrolled
from lmjax._fit.block_covariance import BlockCovariance as BlockCovariance
from lmjax._fit.block_covariance import block_covariance as block_covariance
from lmjax._fit.block_result import BlockSolution as BlockSolution
from lmjax._fit.curve_fit import curve_fit as curve_fit
from lmjax._fit.curve_result import CurveFit as CurveFit
from lmjax._fit.global_fit import global_fit as global_fit
from lmjax._fit.global_result import GlobalFit as GlobalFit
from lmjax._fit.least_squares import least_squares as least_squares
from lmjax._fit.residual_result import ResidualFit as ResidualFit
from lmjax._jax.storage import load as load
from lmjax._jax.storage import save as save
from lmjax._linalg.solvers import CG as CG
from lmjax._linalg.solvers import QR as QR
from lmjax._linalg.solvers import SVD as SVD
from lmjax._linalg.solvers import BlockCG as BlockCG
from lmjax._linalg.solvers import Cholesky as Cholesky
from lmjax._linalg.solvers import Dual as Dual
from lmjax._linalg.solvers import Schur as Schur
from lmjax._linalg.solvers import SparseCholesky as SparseCholesky
from lmjax._problem.ragged import pad_ragged as pad_ragged
from lmjax._problem.residual_blocks import ResidualBlocks as ResidualBlocks
from lmjax._solver.damping import Classical as Classical
from lmjax._solver.damping import Fixed as Fixed
from lmjax._solver.damping import Nielsen as Nielsen
from lmjax._solver.settings import LevenbergMarquardt as LevenbergMarquardt
from lmjax._solver.solution import DerivativeCheck as DerivativeCheck
from lmjax._solver.solution import FitError as FitError
from lmjax._solver.solution import History as History
from lmjax._solver.solution import Solution as Solution
from lmjax._solver.status import Engine as Engine
from lmjax._solver.status import ParamStatus as ParamStatus
from lmjax._solver.status import ProfileStatus as ProfileStatus
from lmjax._solver.status import Status as Status
from lmjax._solver.table import table as table
from lmjax._statistics.block_covariance import CovarianceBlocks as CovarianceBlocks
from lmjax._uncertainty.bootstrap import Bootstrap as Bootstrap
from lmjax._uncertainty.bootstrap import bootstrap as bootstrap
from lmjax._uncertainty.contour import Contour as Contour
from lmjax._uncertainty.contour import contour as contour
from lmjax._uncertainty.profile import Profile as Profile
from lmjax._uncertainty.profile import profile as profile
from lmjax.models.convolve import convolve as convolve

__version__ = "0.1.0"

# Parts that need libraries or time of their own: loaded when they are first asked for.
_LATER = ("io", "optax", "plot", "scipy", "xarray")


def __getattr__(name: str):
    if name in _LATER:
        return _import_module(f"lmjax.{name}")
    raise AttributeError(f"module 'lmjax' has no attribute {name!r}")
