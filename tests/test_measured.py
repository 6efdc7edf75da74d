"""Textbook data give the numbers that others have published for them."""

import runpy
from decimal import Decimal
from pathlib import Path

import jax
import numpy as np
import pytest

EXAMPLE = runpy.run_path(
    str(Path(__file__).with_name("measured.py")), run_name="measured"
)
CLASSIC = EXAMPLE["load_classic"]()


def half_a_digit(printed):
    """Return half a unit of the last digit of a printed number."""
    exponent = Decimal(str(printed)).as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent


@pytest.mark.parametrize("case", CLASSIC, ids=[case[0]["name"] for case in CLASSIC])
def test_estimates_and_errors_are_those_that_r_prints(case):
    record, model, x = case
    fit = EXAMPLE["fit_classic"](record, model, x)
    assert fit.success
    got = [
        *(fit.params[name] for name in record["params"]),
        *(fit.stderr[name] for name in record["params"]),
        np.sqrt(fit.reduced_chi2),
    ]
    printed = [
        *record["estimates"],
        *record["std_errors"],
        record["residual_std_error"],
    ]
    for value, expected in zip(got, printed, strict=True):
        assert abs(value - expected) <= 1.0001 * half_a_digit(expected)


def test_t1_of_fifty_voxels_is_the_one_their_authors_publish():
    angle, tr, signal, published = EXAMPLE["load_flip_angles"]()
    t1, _, status = jax.jit(jax.vmap(EXAMPLE["fit_t1"]))(angle, tr, signal)
    assert np.all(status > 0)
    # the table itself is 3e-6 away from an exact minimum
    np.testing.assert_allclose(t1, published, rtol=5e-6)
