"""How robust should a loss be, if clean data decide it through the fit?

The scale c of a Cauchy loss says at what size a residual starts to count less. Too
large, and outliers pull; too small, and good points are thrown away. Here it is learned
by gradient descent: fit noisy curves, compare the fitted curves with a few clean ones,
and differentiate that error through the fit with respect to log c.

Expect: c settles at about twice the noise of 0.05, and the error on clean curves is the
lowest of all the scales listed.
"""

import jax
import jax.numpy as jnp
import numpy as np

import lmjax

CURVES, POINTS, NOISE = 200, 30, 0.05
STEPS, SEED = 35, 1
T = jnp.linspace(0.0, 4.0, POINTS)


def decay(p, t):
    """Return a decay with offset."""
    return p[0] * jnp.exp(-p[1] * t) + p[2]


def simulate():
    """Return clean curves, and noisy ones with 20 % outliers."""
    rng = np.random.default_rng(SEED)
    p = [rng.uniform(a, b, (CURVES, 1)) for a, b in ((1, 2), (0.5, 1.5), (0, 0.5))]
    clean = np.asarray(decay([jnp.asarray(v) for v in p], T[None, :]))
    noise = NOISE * rng.normal(size=clean.shape)
    outlier = rng.random(clean.shape) < 0.2
    noisy = clean + np.where(outlier, 20.0 * noise, noise)
    return jnp.asarray(clean, jnp.float32), jnp.asarray(noisy, jnp.float32)


def main():
    """Learn the scale, then list what other scales would have given."""
    clean, noisy = simulate()

    def error_of_one(log_scale, truth, y):
        start = jnp.array([1.5, 1.0, 0.2])
        fit = lmjax.curve_fit(
            decay, T, y, start, loss="cauchy", loss_scale=jnp.exp(log_scale)
        )
        return jnp.mean((fit.predict(T) - truth) ** 2)

    def error(log_scale):
        each = jax.vmap(error_of_one, in_axes=(None, 0, 0))(log_scale, clean, noisy)
        return jnp.mean(each)

    value_and_slope = jax.jit(jax.value_and_grad(error))
    log_scale, rate = jnp.log(1.0), 0.5
    for _ in range(STEPS):
        _, slope = value_and_slope(log_scale)
        log_scale = log_scale - rate * jnp.sign(slope)
        rate *= 0.85
    learned = float(value_and_slope(log_scale)[0])
    print(f"learned scale {float(jnp.exp(log_scale)):.3f}")
    print(f"    error on clean curves {learned**0.5:.5f}")
    for scale in (0.01, 0.03, 0.3, 1.0, 10.0):
        other = float(value_and_slope(jnp.log(scale))[0])
        print(f"scale {scale:<5} error {other**0.5:.5f}")
        assert learned < other


if __name__ == "__main__":
    main()
