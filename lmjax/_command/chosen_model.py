"""The model that a user names: one of `lmjax.models`, or a function in a file."""

import dataclasses
import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

import lmjax
from lmjax._command.request import check_known
from lmjax._files.problem import FileProblem, one_line


class ChosenModel(NamedTuple):
    """A model for `lmjax.curve_fit`.

    Attributes:
        model: ``model(params, x)``, or None where the parameters are the model.
        start: From x, y and their dtype to parameters.
        names: Names of the parameters.
        formula: What it computes, for people.
    """

    model: Callable | None
    start: Callable[[Any, Any], Any]
    names: list[str]
    formula: str


def ready_made() -> dict[str, Any]:
    """Return the models of the library by name."""
    found = vars(lmjax.models)
    return {
        name: kind
        for name, kind in sorted(found.items())
        if inspect.isclass(kind)
        and issubclass(kind, lmjax.models.Model)
        and name not in ("Model", "Sum", "Product")
    }


def chosen_model(text: str, start: dict[str, float]) -> ChosenModel:
    """Return the model called ``text``: a name, or ``file.py:function``.

    Args:
        text: What the user wrote.
        start: Starts by name. They replace those of the model's own guess.

    Raises:
        FileProblem: If there is no such model, or starts are missing or unknown.
    """
    path, colon, name = text.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_file(Path(path), name, start)
    kinds, parts = ready_made(), []
    for part in text.split("+"):
        word, _, degree = part.strip().partition(":")
        if word not in kinds:
            raise FileProblem(
                f"--model: there is no model {word!r}; `lmjax models` lists them, and "
                "file.py:function takes one of your own"
            )
        parts.append((kinds[word], degree))
    if len(parts) > 1:
        return _sum_of(parts, start)
    ((kind, degree),) = parts
    return _of_class(kind, degree, start)


def _sum_of(parts: list[tuple[Any, str]], start: dict[str, float]) -> ChosenModel:
    """Return a sum: parameters are named ``gaussian.width``, ``gaussian_2.width``."""
    models: dict[str, ChosenModel] = {}
    for kind, degree in parts:
        base = name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()
        while name in models:
            name = f"{base}_{1 + sum(key.startswith(base) for key in models)}"
        models[name] = _of_class(kind, degree, {})
    known = [f"{name}.{key}" for name, part in models.items() for key in part.names]
    check_known("--start, --fix", start, known)
    guesses = {name: part.start for name, part in models.items()}

    def begin(x, y):
        total = lmjax.models.Sum.guess(x, y, **guesses)
        given: dict[str, dict] = {name: {} for name in models}
        for key, value in start.items():
            name, _, field = key.partition(".")
            given[name][field] = jnp.asarray(value, y.dtype)
        replaced = {n: dataclasses.replace(total[n], **given[n]) for n in models}
        return lmjax.models.Sum(**replaced)

    formula = " + ".join(part.formula for part in models.values())
    return ChosenModel(None, begin, known, formula)


def _of_class(kind: Any, degree: str, start: dict[str, float]) -> ChosenModel:
    formula = first_line(kind)
    if kind is lmjax.models.Polynomial:
        if degree and not degree.isdigit():
            raise FileProblem(f"--model Polynomial: expected a degree, got {degree!r}")
        power = int(degree or 1)
        if start:
            raise FileProblem("--start: a polynomial needs none")
        guess = lambda x, y: lmjax.models.Polynomial.guess(x, y, power)
        known = [f"coefficients[{k}]" for k in range(power + 1)]
        return ChosenModel(None, guess, known, formula)
    if degree:
        raise FileProblem(f"--model: {kind.__name__} has no variants, got {degree!r}")
    known = [field.name for field in dataclasses.fields(kind)]
    check_known("--start, --fix", start, known)

    def begin(x, y):
        params = kind.guess(x, y)
        given = {name: jnp.asarray(value, y.dtype) for name, value in start.items()}
        return dataclasses.replace(params, **given) if given else params

    return ChosenModel(None, begin, known, formula)


def _of_class_without_guess(kind: Any, where: str, start: dict) -> ChosenModel:
    known = [field.name for field in dataclasses.fields(kind)]
    _all_of(where, known, start, float)
    begin = lambda x, y: kind(**_all_of(where, known, start, y.dtype))
    return ChosenModel(None, begin, known, first_line(kind))


def _from_file(path: Path, name: str, start: dict[str, float]) -> ChosenModel:
    function = _loaded(path, name)
    if inspect.isclass(function) and issubclass(function, lmjax.models.Model):
        if hasattr(function, "guess"):
            return _of_class(function, "", start)
        return _of_class_without_guess(function, f"{path}:{name}", start)
    return _of_function(function, f"{path}:{name}", start)


def _of_function(function: Callable, where: str, start: dict) -> ChosenModel:
    first, *others = inspect.signature(function).parameters
    # model(params, x), not model(x, rate) with a start of the rate
    if len(others) < 2 and not set(others) & set(start):
        if not start:
            raise FileProblem(
                f"--start: {where} has no guess; write --start name=value for "
                "each parameter"
            )
        model, known = function, sorted(start)
    else:  # model(x, a, b, ...), as for SciPy
        known = others
        model = lambda params, x: function(x, *(params[key] for key in others))
    _all_of(where, known, start, float)
    begin = lambda x, y: _all_of(where, known, start, y.dtype)
    return ChosenModel(model, begin, known, first_line(function))


def _all_of(where: str, known: list, start: dict, dtype: Any) -> dict:
    """Return the starts of all parameters."""
    check_known("--start, --fix", start, known)
    for key in known:
        if key not in start:
            raise FileProblem(
                f"--start: expected a value of {key!r}, a parameter of {where}, "
                "which has no guess"
            )
    return {key: jnp.asarray(start[key], dtype) for key in known}


def _loaded(path: Path, name: str) -> Any:
    if not path.exists():
        raise FileProblem(f"--model: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"_of_user_{path.stem}", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        # not by the loader, which would leave bytecode in the user's folder
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        kind = type(error).__name__
        raise FileProblem(
            f"--model: {path} raises {kind}: {one_line(error)}"
        ) from error
    if not callable(found := getattr(module, name, None)):
        raise FileProblem(f"--model: {path} has no function {name!r}")
    return found


def first_line(thing: Any) -> str:
    """Return the first paragraph of a docstring in one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
