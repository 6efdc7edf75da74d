"""Tables of several fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmjax

X = np.linspace(0.0, 4.0, 12)


def fit_one(y, start=1.0):
    return lmjax.curve_fit(
        lambda p, x: p["a"] * jnp.exp(-p["rate"] * x), X, y, {"a": start, "rate": 0.5}
    )


@pytest.fixture(scope="module")
def fits():
    y = np.outer(np.arange(1.0, 41.0), np.exp(-X)) + 0.01 * np.cos(9.0 * X)
    y[7] = np.nan
    return jax.vmap(fit_one)(jnp.asarray(y))


def test_a_line_per_fit_and_the_counts(fits):
    lines = lmjax.table(fits, rows=3).splitlines()
    assert lines[0].split() == ["fit", "a", "rate", "status", "steps", "reduced_chi2"]
    assert [line.split()[0] for line in lines[1:4]] == ["0", "1", "2"]
    assert len(lines) == 5
    good, bad = int(np.sum(fits.status > 0)), int(np.sum(fits.status <= 0))
    assert (good, bad) == (39, 1)
    assert lines[-1].startswith("40 fits: ")
    assert "NONFINITE_START 1" in lines[-1]


def test_values_show_two_digits_of_their_errors(fits):
    line = lmjax.table(fits, rows=1).splitlines()[1]
    value, error = fits.params["a"][0], fits.stderr["a"][0]
    shown, plus, size = line.split()[1:4]
    assert plus == "+/-"
    assert abs(float(size) - error) <= 0.05 * error
    assert abs(float(shown) - value) <= 0.06 * error


def test_a_failed_fit_has_no_errors(fits):
    line = lmjax.table(fits, rows=8).splitlines()[8]
    assert "NONFINITE_START" in line
    assert "+/-" not in line


def test_named_fits_of_different_kinds(fits):
    mean = lmjax.least_squares(lambda p: p["mean"] - X, {"mean": 0.0})
    text = lmjax.table({"decay": fits[0], "mean": mean})
    head, *rows, counts = text.splitlines()
    assert head.split()[:4] == ["fit", "a", "rate", "status"]
    assert {"mean", "cost"} <= set(head.split())
    assert [row.split()[0] for row in rows] == ["decay", "mean"]
    assert counts.startswith("2 fits")


def test_a_single_fit_is_a_table_of_one(fits):
    assert lmjax.table(fits[0]) == lmjax.table([fits[0]])


@pytest.mark.parametrize("wrong", [3, "fits", None, [1]])
def test_other_things_are_refused(wrong):
    with pytest.raises(TypeError, match="fits"):
        lmjax.table(wrong)


def test_batches_inside_a_list_are_refused(fits):
    with pytest.raises(TypeError, match=r"fits\[0\]: expected a single fit"):
        lmjax.table([fits])


@pytest.mark.parametrize("rows", [-1, 1.5, True])
def test_rows_are_a_number(fits, rows):
    with pytest.raises(ValueError, match="rows"):
        lmjax.table(fits, rows)


def test_no_fits_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        lmjax.table([])
