"""How do I reconstruct a scene from pictures, and untangle the path of a robot?

``ResidualBlocks`` takes the function of one residual, and for each residual the camera
and the point, or the two poses, that it sees. A Huber loss keeps wrong matches from
bending the scene. Poses move on a manifold, so that quaternions remain rotations.

Expect: reprojection errors near the noise though every twentieth match is wrong, and a
path ten times nearer to the truth than the steps added up.
"""

import jax
import jax.numpy as jnp
import numpy as np

import lmjax.io

CAMERAS, POINTS, NOISE = 12, 300, 0.5
STEPS, AROUND = 192, 24
POSE = lmjax.manifolds.SE3()
each = lambda function, *arrays: jax.jit(jax.vmap(function))(*arrays)
reprojection = lambda p, seen: lmjax.io.project(p["cameras"], p["points"]) - seen
edge = lambda p, step: POSE.local(step, POSE.between(*p["poses"]))


def reconstruct(rng):
    """Place cameras on an arc around a cloud of points; find both from matches."""
    cameras, points = np.zeros((CAMERAS, 9)), rng.normal(size=(POINTS, 3))
    cameras[:, 1] = np.linspace(-0.8, 0.8, CAMERAS)  # turned about the y axis
    cameras[:, 5:7] = -8.0, 800.0  # distance and focal length
    camera_of, point_of = np.nonzero(rng.random((CAMERAS, POINTS)) < 0.7)
    pixels = each(lmjax.io.project, cameras[camera_of], points[point_of])
    pixels += NOISE * rng.normal(size=pixels.shape)
    wrong = rng.random(len(pixels)) < 0.05
    pixels += wrong[:, None] * rng.normal(scale=60.0, size=pixels.shape)

    at = {"cameras": camera_of, "points": point_of}
    blocks = lmjax.ResidualBlocks(reprojection, at, (pixels,), loss="huber")
    cameras[:, :6] += 0.03 * rng.normal(size=(CAMERAS, 6))
    start = {"cameras": cameras, "points": points + rng.normal(0, 0.1, points.shape)}
    sol = lmjax.least_squares(blocks, start)
    before = each(reprojection, {k: start[k][at[k]] for k in at}, pixels)
    for name, errors in ("before", before), ("after", sol.residual):
        rms = jnp.sqrt(jnp.mean(errors[~wrong] ** 2))
        print(f"reprojection error of right matches {name}: {rms:.2f} pixels RMS")
    assert rms < 1.2 * NOISE


def untangle(rng):
    """Walk around a sphere, and see on the way where one was a round ago."""
    turns = np.zeros((2, STEPS, 6))
    turns[0, :, 5] = 2.0 * np.pi * np.arange(STEPS) / AROUND
    turns[1, :, 4] = np.linspace(2.4, 0.6, STEPS)
    around, down = each(POSE.exp, turns[0]), each(POSE.exp, turns[1])
    above = np.tile([0.0, 0.0, 5.0, 1.0, 0.0, 0.0, 0.0], (STEPS, 1))
    truth = each(POSE.compose, each(POSE.compose, around, down), above)
    pairs = np.array([(k, k + d) for d in (1, AROUND) for k in range(STEPS - d)])
    steps = each(POSE.between, *truth[pairs.T])
    steps = each(POSE.retract, steps, rng.normal(0, 0.03, (len(pairs), 6)))

    add = lambda x, step: (POSE.compose(x, step), x)
    start = {"poses": jax.lax.scan(add, truth[0], steps[:STEPS])[1]}
    blocks = lmjax.ResidualBlocks(edge, {"poses": pairs}, (steps,))
    first = {"poses": np.arange(STEPS)[:, None] == 0}
    sol = lmjax.least_squares(blocks, start, manifold={"poses": POSE}, fixed=first)
    for name, params in ("before", start), ("after", sol.params):
        away = jnp.linalg.norm((params["poses"] - truth)[:, :3], axis=1).mean()
        print(f"mean distance from the true path {name}: {away:.2f}")
    assert away < 0.3


def main():
    """Reconstruct a scene, then untangle a path."""
    jax.config.update("jax_enable_x64", True)
    reconstruct(np.random.default_rng(17))
    untangle(np.random.default_rng(18))


if __name__ == "__main__":
    main()
