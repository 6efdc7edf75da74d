"""NIST StRD nonlinear regression problems as records that lmjax can fit.

Source: NIST Statistical Reference Datasets; see ``data/README.md``.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Problem(NamedTuple):
    """One certified problem.

    Attributes:
        name: NIST's name.
        model: ``model(params, x)`` in jnp.
        reference_model: The same formula in numpy float64, to judge answers by.
        x: Predictor.
        y: Response.
        starts: The two starts, far and near.
        params: Certified parameters.
        stderr: Certified standard errors.
        rss: Certified residual sum of squares.
        residual_sd: Certified residual standard deviation.
    """

    name: str
    model: Callable
    reference_model: Callable
    x: np.ndarray
    y: np.ndarray
    starts: tuple[np.ndarray, np.ndarray]
    params: np.ndarray
    stderr: np.ndarray
    rss: float
    residual_sd: float


def _model(code, names, module):
    functions = {"exp": module.exp, "cos": module.cos, "sin": module.sin}
    functions |= {"atan": module.arctan, "log": module.log, "pi": np.pi}

    def model(params, x):
        values = {name: params[i] for i, name in enumerate(names)}
        return eval(code, {"__builtins__": {}}, functions | values | {"x": x})

    return model


def _problem(record):
    code = compile(record["rhs"], record["name"], "eval")
    names = record["param_names"]
    return Problem(
        record["name"],
        _model(code, names, jnp),
        _model(code, names, np),
        np.array(record["data"]["x"], float),
        np.array(record["data"]["y"], float),
        (np.array(record["start1"], float), np.array(record["start2"], float)),
        np.array(record["certified_params"], float),
        np.array(record["certified_std_errors"], float),
        float(record["certified_rss"]),
        float(record["certified_residual_std_dev"]),
    )


def load(path: Path | None = None) -> list[Problem]:
    """Return the problems of a JSON file in the form of ``data/nist.json``."""
    path = path or Path(__file__).parent / "data" / "nist.json"
    return [_problem(record) for record in json.loads(path.read_text())["problems"]]


def digits(values, certified) -> float:
    """Return the log relative error of the worst value, clipped to [0, 11]."""
    values, certified = np.asarray(values, float), np.asarray(certified, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        lre = -np.log10(np.abs(values - certified) / np.abs(certified))
    return float(np.min(np.clip(np.nan_to_num(lre, nan=0.0, posinf=11.0), 0.0, 11.0)))


def excess(problem: Problem, params) -> float:
    """Return how far the residual sum of squares lies above the certified one.

    In units of ``n s^2``, recomputed in float64: 0.01 is a tenth of a standard error.
    """
    params = np.asarray(params, float)
    with np.errstate(all="ignore"):
        residual = problem.y - problem.reference_model(params, problem.x)
        rss = float(np.sum(residual**2))
    return (rss - problem.rss) / (params.size * problem.residual_sd**2)
