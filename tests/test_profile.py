"""Profile intervals against lmfit, brute force, closed forms and seeded replicas."""

import jax
import jax.numpy as jnp
import lmfit
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

import lmjax
from benchmarks import nist

# Bates and Watts (1988), appendix 1.1: Puromycin, treated
CONC = np.repeat([0.02, 0.06, 0.11, 0.22, 0.56, 1.10], 2)
RATE = np.array([76, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200.0])
START = {"top": 200.0, "half": 0.05}
FOUND, AT_BOUND, OPEN, HELD, LOST = (
    int(lmjax.ProfileStatus[name])
    for name in ("FOUND", "AT_BOUND", "OPEN", "HELD", "LOST")
)


def michaelis_menten(p, x):
    return p["top"] * x / (p["half"] + x)


def everything(**changes):
    """Return one lane: data and keywords of a fit, nothing switched on."""
    lane = {
        "y": RATE,
        "sigma": np.ones(12),
        "mask": np.ones(12, bool),
        "lower": {"top": -np.inf, "half": -np.inf},
        "upper": {"top": np.inf, "half": np.inf},
        "fixed": {"top": False, "half": False},
    }
    return lane | changes


LANES = {
    "plain": everything(),
    "weighted": everything(sigma=1.0 + 2.0 * CONC, mask=np.arange(12) != 1),
    "bounded": everything(upper={"top": 220.0, "half": np.inf}),
    "on the bound": everything(upper={"top": 205.0, "half": np.inf}),
    "fixed": everything(fixed={"top": False, "half": True}),
    "nan": everything(y=np.where(np.arange(12) == 3, np.nan, RATE)),
    "straight": everything(
        y=400.0 * CONC / (3.0 + CONC) + 8.0 * np.cos(1.7 * np.arange(12.0))
    ),
    "no scatter": everything(y=200.0 * CONC / (0.05 + CONC)),
}


@jax.jit
@jax.vmap
def profiled(lane):
    options = {
        "sigma": lane["sigma"],
        "mask": lane["mask"],
        "bounds": (lane["lower"], lane["upper"]),
        "fixed": lane["fixed"],
    }
    x, y = jnp.asarray(CONC), lane["y"]
    fit = lmjax.curve_fit(michaelis_menten, x, y, START, **options)
    return fit, lmjax.profile(fit, x, y, **options)


def stacked(lanes):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *lanes)


@pytest.fixture(scope="module")
def outcomes():
    """Return fit and profile of every lane by name."""
    out = profiled(stacked(LANES.values()))
    return {
        name: jax.tree.map(lambda leaf, i=i: leaf[i], out)
        for i, name in enumerate(LANES)
    }


def ends(profile):
    """Return the limits in the order of the flat parameters, half first."""
    return np.stack([np.stack(jax.tree.leaves(side)) for side in profile.interval], -1)


def lmfit_intervals(residual, names, start):
    params = lmfit.Parameters()
    for name, value in zip(names, start, strict=True):
        params.add(name, value=value)
    values = lambda params: np.array([params[name].value for name in names])
    minimizer = lmfit.Minimizer(lambda params: residual(values(params)), params)
    best = minimizer.minimize(ftol=1e-15, xtol=1e-15)
    found = lmfit.conf_interval(minimizer, best, sigmas=[0.95])
    return np.array([[found[name][0][1], found[name][2][1]] for name in names])


@pytest.mark.parametrize("name", ["plain", "weighted"])
def test_puromycin_as_lmfit_has_it(name, outcomes):
    lane = LANES[name]
    use = lane["mask"]

    def residual(p):
        r = (p[1] * CONC / (p[0] + CONC) - RATE) / lane["sigma"]
        return r[use]

    expected = lmfit_intervals(residual, ["half", "top"], [0.05, 200.0])
    _, profile = outcomes[name]
    assert np.all(profile.status == FOUND)
    # lmfit stops its root at about 1e-7
    np.testing.assert_allclose(ends(profile), expected, rtol=1e-6)
    assert not profile.found_lower_minimum


@pytest.mark.slow
def test_chwirut2_as_lmfit_has_it():
    problem = {problem.name: problem for problem in nist.load()}["Chwirut2"]
    x, y = problem.x, problem.y
    start = jnp.asarray(problem.starts[1])
    fit = lmjax.curve_fit(problem.model, x, y, start)
    profile = lmjax.profile(fit, x, y, "[1]")
    residual = lambda p: problem.reference_model(p, x) - y
    expected = lmfit_intervals(residual, ["a", "b", "c"], problem.starts[1])
    got = np.stack(profile.interval, -1)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-6)
    assert np.all(np.isnan(got[[0, 2]]))
    assert profile.names == ("[1]",)
    assert profile.status.tolist() == [[HELD, HELD], [FOUND, FOUND], [HELD, HELD]]


def test_bounds_count_in_the_refits_and_end_an_interval(outcomes):
    def rss(p):
        return np.sum((p[1] * CONC / (p[0] + CONC) - RATE) ** 2)

    fit, profile = outcomes["bounded"]
    best = float(fit.chi2)
    aim = best * (1.0 + scipy.stats.t.ppf(0.975, 10) ** 2 / 10)

    def excess(half):
        # linear in top: the constrained minimum is the clipped one
        curve = CONC / (half + CONC)
        top = min(curve @ RATE / (curve @ curve), 220.0)
        return rss((half, top)) - aim

    lower = scipy.optimize.brentq(excess, 0.03, 0.06, xtol=1e-14)
    upper = scipy.optimize.brentq(excess, 0.07, 0.12, xtol=1e-14)
    np.testing.assert_allclose(ends(profile)[0], [lower, upper], rtol=1e-7)
    assert profile.status.tolist() == [[FOUND, FOUND], [FOUND, AT_BOUND]]
    assert ends(profile)[1, 1] == 220.0


def test_parameter_on_its_bound_has_an_interval_though_no_error(outcomes):
    fit, profile = outcomes["on the bound"]
    assert np.isnan(fit.stderr["top"])
    assert profile.status.tolist()[1] == [FOUND, AT_BOUND]
    lower, upper = ends(profile)[1]
    assert upper == 205.0
    curve = lambda half: CONC / (half + CONC)
    best = scipy.optimize.minimize_scalar(
        lambda half: np.sum((lower * curve(half) - RATE) ** 2), bounds=(0.01, 0.2)
    )
    # top is no free parameter in dof's eyes only if it is fixed: 10 are left
    aim = float(fit.chi2) * (1.0 + scipy.stats.t.ppf(0.975, 10) ** 2 / 10)
    np.testing.assert_allclose(best.fun, aim, rtol=1e-6)


def test_fixed_parameter_has_no_interval_and_stays_put(outcomes):
    _, profile = outcomes["fixed"]
    assert profile.status.tolist() == [[HELD, HELD], [FOUND, FOUND]]
    # linear in top: the textbook interval
    curve = CONC / (0.05 + CONC)
    top = curve @ RATE / (curve @ curve)
    s2 = np.sum((top * curve - RATE) ** 2) / 11
    half_width = scipy.stats.t.ppf(0.975, 11) * np.sqrt(s2 / (curve @ curve))
    expected = [[np.nan, np.nan], [top - half_width, top + half_width]]
    np.testing.assert_allclose(ends(profile), expected, rtol=1e-8)


def test_limit_that_the_data_do_not_set_is_infinite(outcomes):
    _, profile = outcomes["straight"]
    assert profile.status.tolist() == [[FOUND, OPEN], [FOUND, OPEN]]
    assert np.all(np.isposinf(ends(profile)[:, 1]))
    assert np.all(np.isfinite(ends(profile)[:, 0]))


def test_data_without_scatter_leave_no_width(outcomes):
    _, profile = outcomes["no scatter"]
    np.testing.assert_allclose(ends(profile), [[0.05, 0.05], [200.0, 200.0]], rtol=1e-6)


def test_failed_fit_has_no_interval_and_spoils_no_other(outcomes):
    _, profile = outcomes["nan"]
    assert np.all(profile.status == LOST)
    assert np.all(np.isnan(ends(profile)))
    healthy = stacked([LANES["plain"] if n == "nan" else LANES[n] for n in LANES])
    _, again = profiled(healthy)
    for i, name in enumerate(LANES):
        if name != "nan":
            before, after = outcomes[name][1], jax.tree.map(lambda x, i=i: x[i], again)
            jax.tree.map(np.testing.assert_array_equal, before, after)


def test_points_lie_on_the_profile(outcomes):
    fit, profile = outcomes["plain"]
    s2 = float(fit.reduced_chi2)
    for value, z in zip(profile.value[0].ravel(), profile.z[0].ravel(), strict=True):
        if np.isfinite(value):
            curve = CONC / (value + CONC)
            rss = np.sum((RATE @ curve / (curve @ curve) * curve - RATE) ** 2)
            np.testing.assert_allclose(s2 * z**2 + fit.chi2, rss, rtol=1e-9)


@pytest.mark.slow
def test_derivative_of_a_limit_is_that_of_the_closed_form(rng):
    x = jnp.linspace(0.0, 2.0, 6)
    y = jnp.asarray(1.0 + 0.5 * x + 0.1 * rng.normal(size=6))
    line = lambda p, x: p[0] + p[1] * x
    design = jnp.stack([jnp.ones_like(x), x], axis=1)
    t = scipy.stats.t.ppf(0.975, 4)

    def upper(y, sigma):
        fit = lmjax.curve_fit(line, x, y, jnp.ones(2), sigma=sigma)
        profile = lmjax.profile(fit, x, y, "[1]", sigma=sigma)
        return profile.interval[1][1]

    def textbook(y, sigma):
        weighted = design / sigma[:, None]
        inverse = jnp.linalg.inv(weighted.T @ weighted)
        p = inverse @ weighted.T @ (y / sigma)
        s2 = jnp.sum((design @ p - y) ** 2 / sigma**2) / 4
        return p[1] + t * jnp.sqrt(s2 * inverse[1, 1])

    sigma = jnp.linspace(0.8, 1.2, 6)
    value, slopes = jax.jit(jax.value_and_grad(upper, argnums=(0, 1)))(y, sigma)
    expected = jax.value_and_grad(textbook, argnums=(0, 1))(y, sigma)
    np.testing.assert_allclose(value, expected[0], rtol=1e-8)
    np.testing.assert_allclose(slopes[0], expected[1][0], rtol=1e-6)
    np.testing.assert_allclose(slopes[1], expected[1][1], rtol=1e-6, atol=1e-7)


class Cosine(lmjax.models.Model):
    frequency: float

    def __call__(self, x):
        return jnp.cos(self.frequency * x)


def test_better_minimum_on_the_way_is_reported():
    # side lobes of the cost surround the minimum at 2; the fit started in one of them
    x = jnp.linspace(0.0, 6.0, 8)
    y = jnp.cos(2.0 * x) + 0.3 * jnp.sin(9.0 * x)
    fit = lmjax.curve_fit(Cosine(1.25), x, y)
    assert fit.success
    assert abs(fit.params.frequency - 2.0) > 0.5
    assert lmjax.profile(fit, x, y).found_lower_minimum
    good = lmjax.curve_fit(Cosine(2.1), x, y)
    profile = lmjax.profile(good, x, y)
    assert not profile.found_lower_minimum
    low, high = profile.interval
    assert low.frequency < 2.0 < high.frequency
    assert profile.names == ("frequency",)


@pytest.mark.slow
def test_float32_finds_the_same_limits(outcomes):
    x, y = (jnp.asarray(a, jnp.float32) for a in (CONC, RATE))
    fit = lmjax.curve_fit(michaelis_menten, x, y, START)
    profile = lmjax.profile(fit, x, y)
    assert profile.value.dtype == jnp.float32
    np.testing.assert_allclose(ends(profile), ends(outcomes["plain"][1]), rtol=1e-3)


def test_forgotten_sigma_is_noticed():
    fit = lmjax.curve_fit(michaelis_menten, CONC, RATE, START, sigma=1.0 + CONC)
    with pytest.raises(ValueError, match="another fit"):
        lmjax.profile(fit, CONC, RATE)


COUNTS = np.array([3.0, 0.0, 7.0, 4.0, 2.0, 5.0])
OFFSET = np.array([1.0, 0.5, 2.0, 1.0, 1.0, 1.5])


def rate_of(p, exposure):
    return p[0] * exposure + p[1]


def test_poisson_limits_are_where_the_deviance_rises_by_the_quantile():
    options = {"likelihood": "poisson", "bounds": (1e-6, 100.0)}
    fit = lmjax.curve_fit(rate_of, OFFSET, COUNTS, np.array([2.0, 0.5]), **options)
    profile = lmjax.profile(fit, OFFSET, COUNTS, "[0]", **options)

    def deviance(p):
        f = p[0] * OFFSET + p[1]
        return 2.0 * np.sum(f - COUNTS + scipy.special.xlogy(COUNTS, COUNTS / f))

    def excess(rate):
        inner = lambda background: deviance((rate, background))
        best = scipy.optimize.minimize_scalar(
            inner, bounds=(1e-6, 100.0), method="bounded", options={"xatol": 1e-12}
        )
        return best.fun - float(fit.deviance) - scipy.stats.chi2.ppf(0.95, 1)

    assert np.all(profile.status[0] == FOUND)
    middle = float(fit.params[0])
    for end, span in zip(
        profile.interval, [(1e-3, middle), (middle, 50.0)], strict=True
    ):
        expected = scipy.optimize.brentq(excess, *span, xtol=1e-12)
        np.testing.assert_allclose(end[0], expected, rtol=1e-6)


def test_likelihood_must_be_that_of_the_fit():
    noise = lmjax.likelihoods.Poisson(read_noise=1.0)
    start = np.array([2.0, 0.5])
    fit = lmjax.curve_fit(rate_of, OFFSET, COUNTS, start, likelihood=noise)
    with pytest.raises(ValueError, match="likelihood: expected .* Poisson, got None"):
        lmjax.profile(fit, OFFSET, COUNTS)
    with pytest.raises(ValueError, match="these give another fit"):
        lmjax.profile(fit, OFFSET, COUNTS, likelihood="poisson")


KEYWORDS = {
    "nan_policy": {"nan_policy": "omit"},
    "loss": {"loss": "soft_l1", "loss_scale": 5.0},
    "fixed": {"fixed": {"half": True}},
    "bounds": {"bounds": (0.0, {"half": 0.06})},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "nan_policy" else pytest.mark.slow)
        for name in KEYWORDS
    ],
)
def test_forgotten_keyword_is_noticed(name):
    rate = np.where(np.arange(12) == 3, np.nan, RATE) if name == "nan_policy" else RATE
    fit = lmjax.curve_fit(michaelis_menten, CONC, rate, START, **KEYWORDS[name])
    assert fit.success
    with pytest.raises(ValueError, match="these give another fit"):
        lmjax.profile(fit, CONC, rate)
    lmjax.profile(fit, CONC, rate, "top", **KEYWORDS[name])


@pytest.mark.slow
def test_linear_parameters_have_the_limits_of_any_other():
    linear = {"linear": {"top": True}}
    fit = lmjax.curve_fit(michaelis_menten, CONC, RATE, START, **linear)
    got = lmjax.profile(fit, CONC, RATE, **linear)
    expected = lmjax.profile(fit, CONC, RATE)
    np.testing.assert_allclose(ends(got), ends(expected), rtol=1e-7)


@pytest.fixture(scope="module")
def fit():
    return lmjax.curve_fit(michaelis_menten, CONC, RATE, START)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "which: no parameter is called 'tau'", {"which": "tau"}),
        (ValueError, "level: expected a number between 0 and 1", {"level": 95}),
        (TypeError, "which: expected names of parameters, got 0", {"which": 0}),
        (
            ValueError,
            r"y: expected the shape that was fitted, \(12,\)",
            {"y": RATE[1:]},
        ),
        (ValueError, r"x: .*whose y has shape \(12,\); .* \(11,\)", {"x": CONC[1:]}),
        (TypeError, "absolute_sigma: expected a keyword", {"absolute_sigma": True}),
        (TypeError, "fit: expected what curve_fit returns", {"fit": START}),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_bad_request_is_refused(error, message, call, fit):
    given = {"fit": fit, "x": CONC, "y": RATE} | call
    with pytest.raises(error, match=message):
        lmjax.profile(**given)


def test_batch_of_fits_is_refused_with_advice(fit):
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), fit)
    with pytest.raises(ValueError, match=r"fit: .* batch of \(2,\); use jax.vmap"):
        lmjax.profile(batch, CONC, RATE)


@jax.jit
def covered(noise, x):
    """Return how often linear and profile intervals hold the truth, per parameter."""
    truth = {"top": jnp.array(1.0), "half": jnp.array(1.0)}

    @jax.vmap
    def one(noise):
        y = michaelis_menten(truth, x) + noise
        options = {"sigma": 0.03}
        fit = lmjax.curve_fit(
            michaelis_menten, x, y, truth, absolute_sigma=True, **options
        )
        low, high = lmjax.profile(fit, x, y, **options).interval
        inside = lambda a, b: jax.tree.map(
            lambda a, t, b: (a <= t) & (t <= b), a, truth, b
        )
        half = jax.tree.map(lambda e: scipy.stats.norm.ppf(0.975) * e, fit.stderr)
        linear = inside(
            jax.tree.map(jnp.subtract, fit.params, half),
            jax.tree.map(jnp.add, fit.params, half),
        )
        return linear, inside(low, high)

    return jax.tree.map(lambda x: jnp.mean(x.astype(float)), one(noise))


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say():
    # 95 % of 10,000 seeded replicas; the standard deviation of that count is 0.22 %
    noise = 0.03 * jax.random.normal(jax.random.key(1), (10_000, 4), float)
    # far up the curve both parameters are well determined
    near_linear = jnp.array([0.3, 1.0, 20.0, 40.0])
    for shares in covered(noise, near_linear):
        for share in shares.values():
            assert 0.93 <= share <= 0.97
    # on its first half the data hardly tell them apart, the upper limit may be missing
    curved = jnp.array([0.25, 0.5, 0.75, 1.0])
    linear, profile = covered(noise, curved)
    for name in linear:
        assert linear[name] < 0.93
        assert 0.93 <= profile[name] <= 0.97
