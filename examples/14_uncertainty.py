"""How sure am I of a parameter, where the standard error is not the whole story?

The first half of a saturation curve: the data hardly tell the final height from the
concentration at half of it. Three answers are compared, and the error of a quantity
that follows from both parameters: the initial slope.

Expect: the linear interval is symmetric, the profile and the bootstrap reach much
further up than down, and the slope is known far better than either parameter.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import lmjax

jax.config.update("jax_enable_x64", True)

NOISE, POINTS, REPLICAS, SEED = 0.02, 12, 2000, 3
START = {"top": 1.0, "half": 1.0}


def saturation(params, x):
    """Return the Michaelis-Menten curve."""
    return params["top"] * x / (params["half"] + x)


def main():
    """Fit once, ask three times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", metavar="FILE", help="save a figure")
    options = parser.parse_args()
    x = np.linspace(0.1, 1.2, POINTS)
    noise = np.random.default_rng(SEED).normal(0.0, NOISE, POINTS)
    y = np.asarray(saturation(START, x)) + noise
    errors = {"sigma": NOISE}  # whoever fits again wants to know
    fit = lmjax.curve_fit(saturation, x, y, START, absolute_sigma=True, **errors)
    profile = lmjax.profile(fit, x, y, **errors)
    boot = lmjax.bootstrap(
        jax.random.key(SEED), fit, x, y, num=REPLICAS, kind="parametric", **errors
    )
    linear = [
        jax.tree.map(lambda p, e, t=t: p + t * e, fit.params, fit.stderr)
        for t in (-1.96, 1.96)
    ]
    answers = {"linear": linear, "profile": profile.interval}
    answers["bootstrap"] = boot.interval()
    for name in START:
        print(f"{name}: {fit.params[name]:.3f}, the truth is {START[name]}")
        for kind, (low, high) in answers.items():
            print(f"    {kind:<10} {low[name]:6.3f} to {high[name]:6.3f}")
    slope, error = fit.propagate(lambda p: p["top"] / p["half"])
    print(f"initial slope: {slope:.3f} +- {error:.3f}, {error / slope:.1%}")
    relative = {name: fit.stderr[name] / fit.params[name] for name in START}
    print("parameters:", *(f"{name} {e:.1%}" for name, e in relative.items()))
    assert jnp.all(error / slope < jnp.stack(list(relative.values())))
    if options.plot:
        from lmjax import plot

        plot.profile(profile).savefig(options.plot)


if __name__ == "__main__":
    main()
