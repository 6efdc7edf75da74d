"""The camera of bundle adjustment files: where a point of space is seen, in pixels."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax.manifolds import _functions
from lmjax.manifolds._quaternion import cross


def project(camera: Float[Array, "9"], point: Float[Array, "3"]) -> Float[Array, "2"]:
    """Return where a camera of a BAL file sees a point, in pixels.

    The camera looks down its negative z axis; pixels count from the centre of the image
    to the right and up. With ``P = R point + t`` and ``p = -(P_x, P_y) / P_z``, the
    point is seen at ``f (1 + k1 |p|^2 + k2 |p|^4) p``. Values and derivatives of first
    and second order are finite at rotation zero. A point in the plane of the camera,
    ``P_z = 0``, is seen nowhere: it gives infinity or NaN.

    Args:
        camera: Rotation vector in radians (3), translation (3), focal length f in
            pixels, k1 and k2.
        point: A point of space, in the units of the translation.

    Returns:
        Pixels, shape (2,).

    Example:
        >>> import jax.numpy as jnp, lmjax.io
        >>> camera = jnp.array([0.0, 0.0, 0.0, 0.0, 0.0, -4.0, 512.0, 0.0, 0.0])
        >>> print(lmjax.io.project(camera, jnp.array([0.5, 0.25, 0.0])))
        [64. 32.]

    References:
        Agarwal, Snavely, Seitz, Szeliski (2010), "Bundle adjustment in the large",
        ECCV, and https://grail.cs.washington.edu/projects/bal, "Camera Model". The
        rotation by a vector is Rodrigues' formula.
    """
    seen = turn(camera[:3], point) + camera[3:6]
    p = -seen[:2] / seen[2]
    squared = jnp.sum(p * p)
    focal, k1, k2 = camera[6], camera[7], camera[8]
    return focal * (1.0 + squared * (k1 + k2 * squared)) * p


def turn(vector: Float[Array, "3"], point: Float[Array, "3"]) -> Float[Array, "3"]:
    """Return a point rotated by a rotation vector.

    ``x + sin(a)/a v×x + (1 - cos a)/a² v×(v×x)``, with ``(1 - cos a)/a²`` written as
    ``sinc(a/2)²/2``, which does not cancel.
    """
    squared = jnp.sum(vector * vector)
    once = cross(vector, point)
    twice = cross(vector, once)
    half = _functions.sinc(squared / 4.0)
    return point + _functions.sinc(squared) * once + 0.5 * half * half * twice
