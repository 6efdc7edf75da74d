"""Manifolds: parameters that are angles, rotations, poses or directions.

A rotation has three degrees of freedom, but no three numbers describe all rotations
smoothly. A manifold keeps an element in ``size`` numbers, such as the four of a unit
quaternion, and moves it by a step of ``tangent_size`` numbers, which are free:

- ``retract(x, v)`` is the element at v from x, with ``retract(x, 0) == x``;
- ``local(x, y)`` is the v that leads from x to y: ``retract(x, local(x, y)) == y``.

These are what Ceres calls Plus and Minus (https://ceres-solver.org, "Manifold"). Any
`equinox.Module` with these two methods and ``tangent_size`` is a manifold. All
functions take one element, a 1-D array; `jax.vmap` maps them over several. The formulas
are those of Sola, Deray and Atchuthan (2018), "A micro Lie theory for state estimation
in robotics", arXiv:1812.01537, cited as [Sola]. Values and derivatives are finite for
equal elements, at the identity and for half turns.

>>> import jax.numpy as jnp, lmjax
>>> pose = lmjax.manifolds.SE3()
>>> quarter_turn = pose.exp(jnp.array([0.0, 0.0, 0.0, 0.0, 0.0, jnp.pi / 2]))
>>> pose.apply(quarter_turn, jnp.array([1.0, 0.0, 0.0])).round(3)
Array([0., 1., 0.], dtype=float32)

The groups (all but `Sphere`) have, for residuals, ``compose(x, y)`` (xy),
``inverse(x)``, ``between(x, y)`` (x⁻¹y), ``apply(x, point)``, ``exp(v)`` and
``log(x)``. They take unit quaternions as they are; only ``retract`` renormalises.
"""

from lmjax.manifolds._motions import SE2 as SE2
from lmjax.manifolds._motions import SE3 as SE3
from lmjax.manifolds._rotations import SO2 as SO2
from lmjax.manifolds._rotations import SO3 as SO3
from lmjax.manifolds._sphere import Sphere as Sphere

NAMES = ("SO2", "SO3", "SE2", "SE3", "Sphere")
