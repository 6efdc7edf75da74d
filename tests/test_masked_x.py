"""Every door reads data as they are: tables, byte orders, masks, missing points."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from tolerances import assert_close

import lmjax
from lmjax._jax.arrays import as_array

T = np.linspace(0.1, 4.0, 12)
Y = np.round(300.0 * np.exp(-0.8 * T) + 50.0)
START = np.array([200.0, 1.0, 10.0])


def decay(p, t):
    return p[0] * jnp.exp(-p[1] * t) + p[2]


def residual(p, t, y):
    return decay(p, t) - y


def shared(p, t):
    return decay(jnp.stack([p["a"], p["k"], p["c"]]), t)


def mean(y):
    return jnp.mean(y, axis=0)


CURVES = np.stack([Y, Y + 10.0, 0.5 * Y])
SHARED_START = {"a": 200.0, "k": 1.0, "c": 10.0}
OPTIONS = {"shared": {"k": True}}
FITS = jax.vmap(lambda y: lmjax.curve_fit(decay, T, y, START))(CURVES)


def refit_nothing(fits, y):
    """Try everything again, so that the data are read."""
    failed = eqx.tree_at(lambda f: f.status, fits, jnp.full(3, -1, jnp.int32))
    return lmjax.rescue(failed, lambda y: lmjax.curve_fit(decay, T, y, START), y)


# Each door: what reads one argument, and the argument as floats of this machine.
DOORS = {
    "curve_fit-y": (lambda v: lmjax.curve_fit(decay, T, v, START).params, Y),
    "curve_fit-x": (lambda v: lmjax.curve_fit(decay, v, Y, START).params, T),
    "curve_fit-x-tree": (
        lambda v: (
            lmjax.curve_fit(lambda p, x: decay(p, x["t"]), {"t": v}, Y, START).params
        ),
        T,
    ),
    "curve_fit-sets": (
        lambda v: (
            lmjax.curve_fit(
                lambda p, x: {"one": decay(p, x)}, T, {"one": v}, START
            ).params
        ),
        Y,
    ),
    "curve_fit-sigma": (
        lambda v: lmjax.curve_fit(decay, T, Y, START, sigma=v).params,
        np.sqrt(Y),
    ),
    "curve_fit-start": (lambda v: lmjax.curve_fit(decay, T, Y, v).params, START),
    "curve_fit-bounds": (
        lambda v: lmjax.curve_fit(decay, T, Y, START, bounds=(0.0, v)).params,
        np.array([400.0, 2.0, 40.0]),
    ),
    "curve_fit-loss": (
        lambda v: (
            lmjax.curve_fit(decay, T, Y, START, loss="huber", loss_scale=v).params
        ),
        np.array(5.0),
    ),
    "least_squares-args": (
        lambda v: lmjax.least_squares(residual, START, (T, v)).params,
        Y,
    ),
    "least_squares-start": (
        lambda v: lmjax.least_squares(residual, v, (T, Y)).params,
        START,
    ),
    "global_fit-y": (
        lambda v: lmjax.global_fit(shared, T, v, SHARED_START, **OPTIONS).params["k"],
        CURVES,
    ),
    "global_fit-x": (
        lambda v: lmjax.global_fit(shared, v, CURVES, SHARED_START, **OPTIONS).params,
        T,
    ),
    "fit_batch": (lambda v: lmjax.fit_batch(mean, v), CURVES),
    "fit_batch-tree": (lambda v: lmjax.fit_batch(lambda d: d["y"].sum(), {"y": v}), T),
    "rescue": (lambda v: refit_nothing(FITS, v).params, CURVES),
    "multi_start": (
        lambda v: (
            lmjax.multi_start(lambda p: lmjax.curve_fit(decay, T, Y, p), v).params
        ),
        np.stack([START, 1.1 * START]),
    ),
    "guess": (lambda v: lmjax.models.Exponential.guess(T, v).offset, Y),
    "guess-x": (lambda v: lmjax.models.Exponential.guess(v, Y).offset, T),
    "predict": (lambda v: FIT.predict(v), T),
    "confidence_band": (lambda v: FIT.confidence_band(v), T),
    "profile": (
        lambda v: lmjax.profile(FIT, T, v, which=["[1]"]).interval,
        Y,
    ),
    "profile-bounds": (
        lambda v: (
            lmjax.profile(BOUNDED, T, Y, which=["[1]"], bounds=(v, None)).interval
        ),
        np.zeros(3),
    ),
    "pad_ragged": (lambda v: lmjax.pad_ragged([v, v[:2]])[0], Y),
    "model": (
        lambda v: lmjax.curve_fit(lmjax.models.Polynomial(np.zeros(2)), T, Y).predict(
            v
        ),
        T,
    ),
}
FIT = lmjax.curve_fit(decay, T, Y, START)
BOUNDED = lmjax.curve_fit(decay, T, Y, START, bounds=(np.zeros(3), None))

SHAPES = {
    "big-endian": lambda a: a.astype(">f8"),
    "big-endian-32": lambda a: a.astype(">f4").astype(">f8"),
    "read-only": lambda a: np.frombuffer(a.tobytes()).reshape(a.shape),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "mask-of-nothing": lambda a: np.ma.array(a, mask=np.zeros(a.shape, bool)),
    "matrix-like": lambda a: a.view(type("Sub", (np.ndarray,), {})),
    "long": lambda a: a.astype(np.longdouble),
}


@pytest.mark.one_of(4)
@pytest.mark.parametrize("shape", ["big-endian", "mask-of-nothing", "long"])
@pytest.mark.parametrize("door", DOORS)
def test_every_door_reads_every_array(door, shape):
    read, values = DOORS[door]
    expected = read(values)
    for _ in range(2):  # jax refuses other byte orders at first, and misreads them then
        got = read(SHAPES[shape](values))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_of_all_kinds_are_read(shape):
    got = as_array("x", SHAPES[shape](CURVES))
    values = CURVES.astype("float32") if shape == "big-endian-32" else CURVES
    np.testing.assert_array_equal(got, values)
    assert type(got) is np.ndarray
    assert got.dtype == np.float64


@pytest.mark.one_of(2)
@pytest.mark.parametrize("door", sorted(set(DOORS) - {"pad_ragged"}))
def test_no_door_loses_a_mask(door):
    read, values = DOORS[door]
    hidden = np.arange(values.size) == min(3, values.size - 1)
    masked = np.ma.array(values, mask=hidden.reshape(values.shape))
    with pytest.raises(TypeError, match=r"^\w+[^:]*: expected a plain array.*mask=~"):
        read(masked)


WORDS = {
    "datetimes": (np.array("2024-01-01", "M8[s]") + np.arange(12), r"datetime64\[s\]"),
    "timedeltas": (np.arange(12).astype("m8[ms]"), r"timedelta64\[ms\].*timedelta64"),
    "objects": (T.astype(object), "dtype object"),
    "text": (T.astype(str), "dtype <U"),
    "records": (np.zeros(12, [("t", float), ("y", float)]), "fields as a dict"),
}


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize(
    "door", [door for door in DOORS if DOORS[door][1].shape == (12,)]
)
def test_what_is_no_number_is_refused_with_its_dtype(door, words):
    value, message = WORDS[words]
    with pytest.raises(TypeError, match=rf"^[\w\[\]']+: expected numbers.*{message}"):
        DOORS[door][0](value)


def test_lists_of_traced_numbers_are_arrays():
    fit = lambda y: lmjax.curve_fit(decay, list(T), list(y), START).params
    assert_close(quick.jit(fit)(Y), FIT.params)


def test_arrays_on_the_device_and_tracers_pass_untouched():
    x = jnp.asarray(T)
    assert as_array("x", x) is x
    plain = np.ones(3)
    assert as_array("x", plain) is plain
    seen = []
    jax.jit(lambda x: seen.append(as_array("x", x) is x) or x)(T)
    assert seen == [True]


def test_a_module_may_hold_arrays_of_another_byte_order():
    swap = lambda a: a.astype(">f8")
    model = lmjax.models.Polynomial(np.array([1.0, 1.0, 0.0]))
    expected = lmjax.curve_fit(model, T, Y).predict(T)
    swapped = eqx.tree_at(lambda m: m.coefficients, model, swap(model.coefficients))
    for _ in range(2):
        assert_close(lmjax.curve_fit(swapped, T, Y).predict(T), expected)


def test_padding_keeps_masks():
    curves = [np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]), [4.0]]
    padded, mask = lmjax.pad_ragged(curves)
    np.testing.assert_array_equal(mask, [[1, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(padded, [[1, 2, 3], [4, 4, 4]])
    pairs = [np.ma.array(np.ones((2, 2)), mask=[[0, 1], [0, 0]])]
    np.testing.assert_array_equal(lmjax.pad_ragged(pairs)[1], [[False, True]])


def test_masked_curves_of_a_global_fit_leave_their_points_out():
    y = [np.ma.array(CURVES[0].copy(), mask=T > 3.5), CURVES[1], CURVES[2][:9]]
    y[0].data[T > 3.5] = 1e6
    x = [T, T, T[:9]]
    got = lmjax.global_fit(shared, x, y, SHARED_START, **OPTIONS)
    keep = np.stack([T <= 3.5, T > 0.0, np.arange(12) < 9])
    expected = lmjax.global_fit(shared, T, CURVES, SHARED_START, mask=keep, **OPTIONS)
    assert_close(got.params["k"], expected.params["k"])
    with pytest.raises(
        ValueError, match=r"x: .* \[12, 12, 9\], got lengths \[12, 12\]"
    ):
        lmjax.global_fit(shared, x[:2], y, SHARED_START, **OPTIONS)


# ---- columns


@pytest.mark.one_of(2)
@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float32])
def test_columns_of_integers_and_booleans_are_numbers(dtype):
    x = (np.arange(12) % 3).astype(dtype)
    line = lambda p, x: p[0] + p[1] * x.astype(float)
    y = (np.arange(12) % 5 > 1).astype(dtype)
    got = lmjax.curve_fit(line, x, y, np.zeros(2)).params
    slope, offset = np.polyfit(x.astype(float), y.astype(float), 1)
    np.testing.assert_allclose(got, [offset, slope], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("x", "y"), [(T, Y[:, None]), (T[:, None], Y)])
def test_one_column_beside_a_flat_array_gets_advice(x, y):
    with pytest.raises(ValueError, match=r"model: expected what y holds.*\.ravel\(\)"):
        lmjax.curve_fit(decay, x, y, START)


def test_columns_on_both_sides_are_a_fit():
    got = lmjax.curve_fit(
        decay, T[:, None], Y[:, None], START, sigma=np.sqrt(Y)[:, None]
    )
    expected = lmjax.curve_fit(decay, T, Y, START, sigma=np.sqrt(Y))
    assert_close(got.params, expected.params)


# ---- tables


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas", reason="pandas is not installed")


def test_series_and_tables_of_pandas_are_arrays(pandas):
    table = pandas.DataFrame({"t": T, "y": Y, "n": Y.astype(int)}, index=T + 7.0)
    got = lmjax.curve_fit(decay, table["t"], table["y"], START, sigma=table["n"] ** 0.5)
    expected = lmjax.curve_fit(decay, T, Y, START, sigma=np.sqrt(Y))
    assert_close(got.params, expected.params)
    start = pandas.Series(START)
    assert_close(
        lmjax.curve_fit(decay, table["t"], table["n"], start).params, FIT.params
    )
    columns = lambda p, x: decay(p, x[:, 0])
    assert_close(lmjax.curve_fit(columns, table, Y, START).params, FIT.params)
    named = lambda p, x: decay(p, x["t"])
    assert_close(lmjax.curve_fit(named, dict(table), Y, START).params, FIT.params)
    sol = lmjax.least_squares(residual, START, (table["t"], table["y"]))
    assert_close(sol.params, FIT.params)


def test_rows_of_a_table_are_fits(pandas):
    table = pandas.DataFrame(CURVES, index=[2.5, 0.5, 1.5])
    np.testing.assert_allclose(lmjax.fit_batch(mean, table), CURVES.mean(1))
    column = table[0]
    np.testing.assert_allclose(
        lmjax.fit_batch(lambda y: 2 * y, column), 2 * CURVES[:, 0]
    )
    got = refit_nothing(FITS, table)
    assert_close(got.params, FITS.params)
    flags = table > 100.0
    masked = lmjax.curve_fit(decay, T, table.iloc[0], START, mask=flags.iloc[0])
    expected = lmjax.curve_fit(decay, T, Y, START, mask=Y > 100.0)
    assert_close(masked.params, expected.params)


@pytest.mark.parametrize("kind", ["Int64", "Float64", "boolean"])
def test_missing_numbers_of_pandas_are_nan(pandas, kind):
    values = pandas.array([1, None, 0], dtype=kind)
    np.testing.assert_array_equal(
        as_array("y", pandas.Series(values)), [1.0, np.nan, 0.0]
    )
    table = pandas.DataFrame({"a": values, "b": [1.5, 2.5, 3.5]})
    expected = [[1.0, 1.5], [np.nan, 2.5], [0.0, 3.5]]
    np.testing.assert_array_equal(as_array("y", table), expected)


def test_columns_that_are_no_numbers_are_named(pandas):
    table = pandas.DataFrame(
        {"t": T, "label": ["a"] * 12, "at": pandas.date_range("2024", periods=12)}
    )
    with pytest.raises(TypeError, match=r"x: expected numbers.* in column 'label'"):
        lmjax.curve_fit(decay, table, Y, START)
    with pytest.raises(TypeError, match=r"x: .*datetime64.* in column 'at'.*subtract"):
        lmjax.curve_fit(decay, table[["t", "at"]], Y, START)
    zoned = table["at"].dt.tz_localize("UTC")
    with pytest.raises(TypeError, match=r"x: expected numbers.*datetime64.*UTC"):
        lmjax.curve_fit(decay, zoned, Y, START)


def test_arrays_and_data_sets_of_xarray_are_read():
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    y = xarray.DataArray(Y, dims="t", coords={"t": T})
    assert_close(lmjax.curve_fit(decay, y.t, y, START).params, FIT.params)
    both = xarray.Dataset({"y": y, "twice": 2.0 * y})
    model = lambda p, t: {"y": decay(p, t), "twice": 2.0 * decay(p, t)}
    assert_close(lmjax.curve_fit(model, T, dict(both), START).params, FIT.params)
    assert_close(lmjax.curve_fit(model, T, both, START).params, FIT.params)
    rows = xarray.DataArray(CURVES, dims=("fit", "t"))
    np.testing.assert_allclose(lmjax.fit_batch(mean, rows), CURVES.mean(1))
    named = lambda p, x: decay(p, x["t"])
    table = xarray.Dataset({"t": ("point", T)})
    assert_close(lmjax.curve_fit(named, table, Y, START).params, FIT.params)


# ---- batches


def test_lists_of_numbers_are_a_batch():
    np.testing.assert_allclose(lmjax.fit_batch(mean, CURVES.tolist()), CURVES.mean(1))
    both = lmjax.fit_batch(lambda d: d[0] + d[1], [T, T.tolist(), []])
    np.testing.assert_allclose(both, 2 * T)


def test_a_store_of_another_byte_order_is_read_before_anything_is_computed(tmp_path):
    path = tmp_path / "frames.dat"
    CURVES.astype(">f4").tofile(path)
    mapped = np.memmap(path, ">f4", "r", shape=CURVES.shape)
    got = lmjax.fit_batch(mean, mapped)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, CURVES.mean(1), rtol=1e-6)


def test_a_store_that_returns_masks_is_refused():
    class Masking:
        shape, dtype = CURVES.shape, CURVES.dtype

        def __getitem__(self, rows):
            return np.ma.masked_greater(CURVES[rows], 200.0)

    with pytest.raises(TypeError, match="^data: expected a plain array, got a masked"):
        lmjax.fit_batch(mean, Masking())


def test_rescue_needs_a_row_per_fit():
    with pytest.raises(ValueError, match="data: .* each of 3 fits, got 2"):
        refit_nothing(FITS, CURVES[:2])


# ---- NaN in x

GONE = np.zeros(12, bool)
GONE[[0, 4, 11]] = True


def without(keep, x=T, y=Y, model=decay):
    return lmjax.curve_fit(model, x[..., keep], y[keep], START)


def test_nan_in_x_drops_the_point_with_omit():
    x = np.where(GONE, np.nan, T)
    y = np.where(np.arange(12) == 7, np.nan, Y)
    got = lmjax.curve_fit(decay, x, y, START, nan_policy="omit")
    keep = ~GONE & (np.arange(12) != 7)
    expected = without(keep)
    assert int(got.num_points) == keep.sum()
    for name in ("params", "covariance", "cost"):
        assert_close(getattr(got, name), getattr(expected, name))
    status = lmjax.curve_fit(decay, x, Y, START).status
    assert status == lmjax.Status.NONFINITE_START


def test_nan_in_one_coordinate_drops_the_point():
    x = np.stack([T, np.cos(T)])
    x[1, GONE] = np.nan
    model = lambda p, x: decay(p, x[0]) + 0.0 * x[1]
    got = lmjax.curve_fit(model, x, Y, START, nan_policy="omit")
    assert_close(got.params, without(~GONE).params)
    rows = lambda p, x: model(p, x.T)
    got = lmjax.curve_fit(rows, x.T, Y, START, nan_policy="omit")
    assert_close(got.params, without(~GONE).params)


def test_nan_in_x_in_a_batch_and_in_derivatives():
    fit = lambda x, y: lmjax.curve_fit(decay, x, y, START, nan_policy="omit").params
    x = np.stack([T, np.where(GONE, np.nan, T)])
    got = quick.jit(jax.vmap(fit, (0, None)))(x, Y)
    np.testing.assert_allclose(got[0], FIT.params, rtol=1e-7)
    np.testing.assert_allclose(got[1], without(~GONE).params, rtol=1e-7)
    slope = quick.jit(jax.jacrev(fit, argnums=1))(x[1], Y)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[:, GONE], 0.0)


def test_nan_in_x_of_data_sets_belongs_to_its_set():
    model = lambda p, x: {name: decay(p, t) for name, t in x.items()}
    x = {"a": np.where(GONE, np.nan, T), "b": T[:5]}
    y = {"a": Y, "b": Y[:5]}
    got = lmjax.curve_fit(model, x, y, START, nan_policy="omit")
    kept = {"a": T[~GONE], "b": T[:5]}
    expected = lmjax.curve_fit(model, kept, {"a": Y[~GONE], "b": Y[:5]}, START)
    assert_close(got.params, expected.params)


def test_nan_in_x_that_sets_share_drops_the_point_of_all():
    model = lambda p, t: {"a": decay(p, t), "b": 2.0 * decay(p, t)}
    fit = lambda x, y: lmjax.curve_fit(model, x, y, START, nan_policy="omit")
    x, y = np.where(GONE, np.nan, T), {"a": Y, "b": 2.0 * Y + 1.0}
    expected = fit(T[~GONE], {name: v[~GONE] for name, v in y.items()})
    assert_close(fit(x, y).params, expected.params)
    slope = quick.jit(jax.jacrev(lambda y: fit(x, y).params))(y)
    assert all(np.isfinite(leaf).all() for leaf in slope.values())


@pytest.mark.parametrize("common", [True, False], ids=["common", "own"])
def test_nan_in_x_of_curves(common):
    x = np.where(GONE, np.nan, T)
    x = x if common else np.stack([T, x, T])
    fit = lambda x, **options: lmjax.global_fit(
        shared, x, CURVES, SHARED_START, **OPTIONS, **options
    )
    keep = ~np.isnan(np.broadcast_to(x, CURVES.shape))
    got, expected = fit(x, nan_policy="omit"), fit(T, mask=keep)
    assert_close(got.params["k"], expected.params["k"])
    assert int(got.num_points) == keep.sum()
