"""The residual that `curve_fit` and `global_fit` minimise, and their statistics."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from lmjax._fit.inputs import Inputs
from lmjax._jax.types import Scalar
from lmjax._problem.data import likelihood_term
from lmjax._problem.problem import Problem
from lmjax._problem.terms import Term
from lmjax._solver.outcome import Outcome
from lmjax._solver.solution import Solution
from lmjax._solver.status import Status
from lmjax._statistics import statistics
from lmjax._statistics.statistics import dof_of, marked
from lmjax.likelihoods import Likelihood


class Objective(NamedTuple):
    """A model compared with data.

    Attributes:
        residual_fn: From the parameters to what the solver sees: residuals in units of
            sigma, or with a likelihood the predictions.
        residual_of: From predictions to residuals in units of sigma.
        term: Robust loss or likelihood, or None.
        likelihood: The likelihood, or None.
    """

    residual_fn: Callable
    residual_of: Callable
    term: Term | None
    likelihood: Likelihood | None

    def observed(self, solution: Solution) -> Solution:
        """Return the solution with residuals where the solver has seen predictions."""
        if self.likelihood is None:
            return solution
        residual = self.residual_of(solution.residual)
        return dataclasses.replace(solution, residual=residual)


def objective(
    inputs: Inputs,
    data: Any,
    predict: Callable,
    residual_of: Callable,
    dtype: Any,
    laid_out: Callable = lambda likelihood: likelihood,
) -> Objective:
    """Return what is minimised.

    Args:
        inputs: What the user gave.
        data: Observations, which know their mask.
        predict: From parameters to predictions.
        residual_of: From predictions to residuals in units of sigma.
        dtype: Of the residual.
        laid_out: Function that reshapes the arrays of a likelihood to the layout of
            the data.
    """
    if inputs.likelihood is None:
        residual_fn = lambda params: residual_of(predict(params))
        return Objective(residual_fn, residual_of, inputs.term, None)
    likelihood = eqx.combine(inputs.likelihood.arrays, inputs.likelihood.rest)
    term = likelihood_term(laid_out(likelihood), data, dtype)
    return Objective(predict, residual_of, term, likelihood)


def statistics_of(
    objective: Objective,
    solution: Solution,
    outcome: Outcome,
    problem: Problem,
    *,
    covariance: Any,
    rank: Any,
    undetermined: Any,
    num_used: Scalar | None,
    absolute_sigma: bool,
) -> dict[str, Any]:
    """Return the statistical fields of the result of a fit to data.

    Args:
        objective: What was minimised.
        solution: The solution.
        outcome: The solution in flat arrays.
        problem: The problem that was solved.
        covariance: Inverse of ``J^T J``, or None.
        rank: Rank of J, or None.
        undetermined: Which parameters the data leave open, or None.
        num_used: Number of points that count, None for all.
        absolute_sigma: Whether sigma is more than relative weights.
    """
    likelihood = objective.likelihood
    absolute_sigma = absolute_sigma or likelihood is not None
    if covariance is not None and not absolute_sigma:
        points = problem.m if num_used is None else num_used
        dof = dof_of(points, solution.flat_status)
        covariance = statistics.scaled(covariance, solution.cost, dof)
    status, kinds = solution.status, solution.flat_status
    if num_used is not None:
        # no data at all: zero residuals, yet nothing was learned
        status = jnp.where(num_used > 0, status, jnp.int32(Status.SINGULAR))
    pearson_chi2 = None
    if problem.term is not None and likelihood is not None:
        pearson_chi2 = jnp.sum(problem.term.gauss_newton_rows(outcome.r)[0] ** 2)
    return {
        "status": status,
        "flat_status": kinds if undetermined is None else marked(kinds, undetermined),
        "covariance": covariance,
        "rank": rank,
        "num_used": num_used,
        "pearson_chi2": pearson_chi2,
        "absolute_sigma": absolute_sigma,
        "likelihood": None if likelihood is None else type(likelihood).__name__,
    }
