"""How does Levenberg-Marquardt train a small network, next to adam?

``lmjax.optax.levenberg_marquardt`` is an optax transformation like any other: init,
update, apply_updates. It is given the residuals instead of a gradient, and solves for
a step that brings all of them down at once; lambda lives in its state.

Expect: after 400 updates Levenberg-Marquardt is at least a hundred times lower than
adam after 5,000.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import lmjax.optax

jax.config.update("jax_enable_x64", True)

WIDTH, POINTS, SEED = 20, 100, 0
LM_UPDATES, ADAM_UPDATES, RATE = 400, 5000, 0.01
X = jnp.linspace(-1.0, 1.0, POINTS)
Y = jnp.sin(6.0 * X) + 0.3 * jnp.cos(15.0 * X)


def main():
    """Train the same network twice and print the mean squared errors."""
    network = eqx.nn.MLP(1, 1, WIDTH, 1, jnp.tanh, key=jax.random.key(SEED))
    start, rest = eqx.partition(network, eqx.is_array)

    def residual_fn(params):
        return jax.vmap(eqx.combine(params, rest))(X[:, None])[:, 0] - Y

    def loss(params):
        return jnp.mean(residual_fn(params) ** 2)

    def train(optimizer, updates, extra):
        def one(carry, _):
            params, state = carry
            grads = jax.grad(loss)(params)
            step, state = optimizer.update(grads, state, params, **extra)
            return (optax.apply_updates(params, step), state), None

        carry = start, optimizer.init(start)
        run = jax.jit(lambda carry: jax.lax.scan(one, carry, None, length=updates))
        (params, _), _ = run(carry)
        return float(loss(params))

    lm = lmjax.optax.levenberg_marquardt()
    ours = train(lm, LM_UPDATES, {"residual_fn": residual_fn})
    adam = train(optax.adam(RATE), ADAM_UPDATES, {})
    print(f"at the start                 {float(loss(start)):.1e}")
    print(f"adam, {ADAM_UPDATES} updates           {adam:.1e}")
    print(f"Levenberg-Marquardt, {LM_UPDATES}     {ours:.1e}")
    assert ours < 0.01 * adam


if __name__ == "__main__":
    main()
