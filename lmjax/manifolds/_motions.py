"""Rigid motions, or poses, of the plane and of space."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from lmjax.manifolds import _functions, _quaternion
from lmjax.manifolds._functions import split
from lmjax.manifolds._quaternion import cross
from lmjax.manifolds._rotations import quarter, turn_plane, wrap

Pose2 = Float[Array, "3"]
Step2 = Float[Array, "3"]
Point2 = Float[Array, "2"]
Pose3 = Float[Array, "7"]
Step3 = Float[Array, "6"]
Point3 = Float[Array, "3"]


class SE2(eqx.Module):
    """Poses in the plane: (x, y, angle in radians), shape (3,).

    A step is (dx, dy, angle), shape (3,), seen from the moving body. ``retract`` is
    ``(t + R(angle) dt, angle + dangle)``, which translates along a straight line, and
    ``local`` its exact inverse. ``exp`` and ``log`` are those of the group, along an
    arc [Sola, (156) to (158)]. ``local`` and ``log`` have angles in [-pi, pi), the
    other methods do not wrap.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> pose = lmjax.manifolds.SE2()
        >>> x, y = jnp.array([1.0, 2.0, jnp.pi / 2]), jnp.array([0.0, 4.0, jnp.pi / 2])
        >>> print(pose.local(x, y).round(3))  # 2 ahead, 1 to the left
        [2. 1. 0.]
    """

    size: ClassVar[int] = 3
    tangent_size: ClassVar[int] = 3

    def retract(self, x: Pose2, v: Step2) -> Pose2:
        """Return the pose at v from x, along a straight line."""
        return self.compose(x, v)

    def local(self, x: Pose2, y: Pose2) -> Step2:
        """Return the step from x to y: their distance as seen from x, and the angle."""
        t, angle = split(self.between(x, y), 2, 3)
        return jnp.concatenate([t, wrap(angle)])

    def compose(self, x: Pose2, y: Pose2) -> Pose2:
        """Return the motion y, in the frame of x, after x [Sola, (155)]."""
        (xt, xa), (yt, ya) = split(x, 2, 3), split(y, 2, 3)
        return jnp.concatenate([xt + turn_plane(xa, yt), xa + ya])

    def inverse(self, x: Pose2) -> Pose2:
        """Return the motion back [Sola, (154)]."""
        t, angle = split(x, 2, 3)
        return jnp.concatenate([-turn_plane(-angle, t), -angle])

    def between(self, x: Pose2, y: Pose2) -> Pose2:
        """Return ``x⁻¹ y``: the pose y as seen from x."""
        (xt, xa), (yt, ya) = split(x, 2, 3), split(y, 2, 3)
        return jnp.concatenate([turn_plane(-xa, yt - xt), ya - xa])

    def apply(self, x: Pose2, point: Point2) -> Point2:
        """Rotate and translate a point, shape (2,) [Sola, (165)]."""
        t, angle = split(x, 2, 3)
        return t + turn_plane(angle, point)

    def exp(self, v: Step2) -> Pose2:
        """Return where the constant velocity v leads in unit time [Sola, (156)]."""
        t, a = split(v, 2, 3)
        forward = _functions.sinc(a * a)
        sideways = 0.5 * a * _functions.sinc(a * a / 4.0) ** 2  # (1 - cos a) / a
        return jnp.concatenate([forward * t + sideways * quarter(t), a])

    def log(self, x: Pose2) -> Step2:
        """Return the constant velocity that leads to x in unit time [Sola, (157)]."""
        t, angle = split(x, 2, 3)
        a = wrap(angle)
        forward = 1.0 - a * a * _functions.cot_defect(a * a)
        return jnp.concatenate([forward * t - 0.5 * a * quarter(t), a])


class SE3(eqx.Module):
    """Poses in space: translation, then unit quaternion (w, x, y, z), shape (7,).

    A step is a translation and a rotation vector in radians, shape (6,), both seen from
    the moving body. ``retract`` is ``(t + R(q) dt, q * exp(dr))``, which translates
    along a straight line, and ``local`` its exact inverse. ``exp`` and ``log`` are
    those of the group, along a screw [Sola, (172) to (174)]. q and -q are the same
    rotation, see `SO3`.

    Example:
        >>> import jax.numpy as jnp, lmjax
        >>> pose = lmjax.manifolds.SE3()
        >>> x = pose.exp(jnp.array([0.1, 0.2, 0.3, 0.0, 0.0, 0.5]))
        >>> y = pose.exp(jnp.array([0.1, 0.2, 0.3, 0.0, 0.0, 0.7]))
        >>> error = pose.log(pose.between(x, y))  # a residual of a pose graph
        >>> error.shape
        (6,)
    """

    size: ClassVar[int] = 7
    tangent_size: ClassVar[int] = 6

    def retract(self, x: Pose3, v: Step3) -> Pose3:
        """Return the pose at v from x, along a straight line, q of unit length."""
        (t, q), (dt, dr) = split(x, 3, 7), split(v, 3, 6)
        turned = _quaternion.multiply(q, _quaternion.exp(dr))
        return jnp.concatenate(
            [t + _quaternion.rotate(q, dt), _quaternion.unit(turned)]
        )

    def local(self, x: Pose3, y: Pose3) -> Step3:
        """Return the step from x to y: their distance and rotation as seen from x."""
        t, q = split(self.between(x, y), 3, 7)
        return jnp.concatenate([t, _quaternion.log(q)])

    def compose(self, x: Pose3, y: Pose3) -> Pose3:
        """Return the motion y, in the frame of x, after x [Sola, (171)]."""
        (xt, xq), (yt, yq) = split(x, 3, 7), split(y, 3, 7)
        t = xt + _quaternion.rotate(xq, yt)
        return jnp.concatenate([t, _quaternion.multiply(xq, yq)])

    def inverse(self, x: Pose3) -> Pose3:
        """Return the motion back [Sola, (170)]."""
        t, q = split(x, 3, 7)
        back = _quaternion.conjugate(q)
        return jnp.concatenate([-_quaternion.rotate(back, t), back])

    def between(self, x: Pose3, y: Pose3) -> Pose3:
        """Return ``x⁻¹ y``: the pose y as seen from x."""
        (xt, xq), (yt, yq) = split(x, 3, 7), split(y, 3, 7)
        back = _quaternion.conjugate(xq)
        t = _quaternion.rotate(back, yt - xt)
        return jnp.concatenate([t, _quaternion.multiply(back, yq)])

    def apply(self, x: Pose3, point: Point3) -> Point3:
        """Rotate and translate a point, shape (3,) [Sola, (181)]."""
        t, q = split(x, 3, 7)
        return t + _quaternion.rotate(q, point)

    def exp(self, v: Step3) -> Pose3:
        """Return where the constant velocity v leads in unit time [Sola, (172)]."""
        t, r = split(v, 3, 6)
        z = jnp.sum(r * r)
        once = cross(r, t)
        twice = cross(r, once)
        # [Sola, (174)]; (1 - cos a) / a^2 = sinc(a / 2)^2 / 2 does not cancel
        moved = t + 0.5 * _functions.sinc(z / 4.0) ** 2 * once
        moved = moved + _functions.sinc_defect(z) * twice
        return jnp.concatenate([moved, _quaternion.exp(r)])

    def log(self, x: Pose3) -> Step3:
        """Return the constant velocity that leads to x in unit time [Sola, (173)]."""
        t, q = split(x, 3, 7)
        r = _quaternion.log(q)
        once = cross(r, t)
        # the inverse of (174) is [Sola, (146)], with its last factor as a cotangent
        back = t - 0.5 * once
        back = back + _functions.cot_defect(jnp.sum(r * r)) * cross(r, once)
        return jnp.concatenate([back, r])
