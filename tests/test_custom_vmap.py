"""Results of a batch that nobody uses, and the functions of others beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import custom_vmap
from jax.interpreters.partial_eval import dce_jaxpr

from lmjax._jax.custom_vmap import with_batch


def ours(note):
    def alone(x):
        note(x)
        return 2.0 * x, x + 1.0

    return lambda x: with_batch(alone, lambda size, flags, x: jax.vmap(alone)(x), x)


def theirs(note):
    @custom_vmap
    def fn(x):
        note(x)
        return 2.0 * x, x + 1.0

    @fn.def_vmap
    def _(size, batched, x):
        return jax.vmap(lambda x: (2.0 * x, x + 1.0))(x), (True, True)

    return fn


@pytest.mark.parametrize("make", [ours, theirs])
@pytest.mark.parametrize("used", [[], [1]])
def test_effects_stay_whatever_is_used(make, used):
    seen = []
    fn = make(lambda x: jax.debug.callback(lambda x: seen.append(float(x)), x))

    @jax.jit
    def some(x):
        results = fn(x)
        return [results[k] for k in used] + [x]

    got = jax.block_until_ready(some(jnp.array(3.0)))
    jax.effects_barrier()
    assert seen == [3.0]
    np.testing.assert_array_equal(got, [4.0] * len(used) + [3.0])


@pytest.mark.parametrize(("make", "results"), [(ours, 1), (theirs, 2)])
def test_calls_of_other_libraries_keep_all_results(make, results):
    closed = jax.make_jaxpr(make(lambda x: None))(1.0)
    jaxpr, _ = dce_jaxpr(closed.jaxpr, [True, False])
    assert [len(eqn.outvars) for eqn in jaxpr.eqns] == [results]
    call = lambda x: jax.core.eval_jaxpr(jaxpr, closed.consts, x)[0]
    np.testing.assert_array_equal(jax.vmap(call)(jnp.arange(3.0)), [0.0, 2.0, 4.0])
