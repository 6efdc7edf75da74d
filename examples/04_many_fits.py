"""How do I fit 2,000 curves at once, and what does one bad curve do to the rest?

Write the fit of one curve, then ``jax.vmap`` it under ``jax.jit``. Every fit has its
own status and its own error bars, and stops on its own terms.

Expect: 1,999 fits converge; the one whose data hold a NaN reports NONFINITE_START, and
every other fit returns the same bits as without the NaN. About 68 % of the true
lifetimes lie within one standard error.
"""

import jax
import jax.numpy as jnp
import numpy as np

import lmjax

NUM_FITS = 2000
POISONED = 1234
NOISE = 0.02
SEED = 2
T = jnp.linspace(0.0, 5.0, 50)


def decay(params, t):
    """Return an exponential decay on a background."""
    return params["amplitude"] * jnp.exp(-t / params["tau"]) + params["background"]


def fit_one(y):
    """Fit one curve; return only what is needed."""
    start = {"amplitude": y[0] - y[-1], "tau": 1.0, "background": y[-1]}
    fit = lmjax.curve_fit(decay, T, y, start)
    return fit.params, fit.stderr, fit.status


def simulate():
    """Return the true lifetimes and the noisy curves, one per row."""
    rng = np.random.default_rng(SEED)
    truth = {
        "amplitude": rng.uniform(0.5, 2.0, (NUM_FITS, 1)),
        "tau": rng.uniform(0.5, 1.5, (NUM_FITS, 1)),
        "background": rng.uniform(0.0, 0.3, (NUM_FITS, 1)),
    }
    curves = decay(truth, np.asarray(T)) + rng.normal(0.0, NOISE, (NUM_FITS, T.size))
    return truth["tau"][:, 0], np.array(curves, np.float32)


def main():
    """Fit all curves, poison one, fit again, compare."""
    fit_all = jax.jit(jax.vmap(fit_one))
    true_tau, curves = simulate()
    clean = fit_all(curves)
    curves[POISONED, 7] = np.nan
    params, stderr, status = poisoned = fit_all(curves)

    for code, count in zip(*np.unique(status, return_counts=True), strict=True):
        print(f"{lmjax.Status(int(code)).name:<16}{count:>5} fits")
    print(f"fit {POISONED}: {lmjax.Status(int(status[POISONED])).advice}")

    others = np.arange(NUM_FITS) != POISONED
    pairs = zip(jax.tree.leaves(clean), jax.tree.leaves(poisoned), strict=True)
    same = all(np.array_equal(a[others], b[others]) for a, b in pairs)
    print(f"all other fits unchanged to the last bit: {same}")

    error = np.asarray(params["tau"] - true_tau)[others]
    sigma = np.asarray(stderr["tau"])[others]
    print(f"tau: median standard error {np.median(sigma):.4f}, ", end="")
    print(f"median true error {np.median(np.abs(error)):.4f}")
    print(f"truth within one standard error: {np.mean(np.abs(error) < sigma):.1%}")


if __name__ == "__main__":
    main()
