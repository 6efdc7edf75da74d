"""The problems: files of bundle adjustment and of pose graphs, and synthetic ones.

Each is a dict of arrays, as both sides read it from an ``.npz``.
"""

from pathlib import Path

import numpy as np

from lmjax.io._bal import BalFile, parse_bal
from lmjax.io._g2o import parse_g2o
from lmjax.io._geometry import semidefinite

# Cameras, points and observations per point, in the mean.
WORLDS = {
    "100 cameras": (100, 10_000, 5.0),
    "300 cameras": (300, 60_000, 5.0),
    "1000 cameras": (1_000, 100_000, 5.0),
}
SMALL, SMALL_POINTS = 1_000, 20
SMALL_FOCAL = 500.0


def of_bal(bal: BalFile) -> dict:
    """Return what both sides read of a bundle adjustment."""
    return {"kind": "bal", **bal._asdict()}


def bal_files(paths: list[str]) -> dict[str, dict]:
    """Return problems by name; those with points behind a camera in two versions.

    gtsam and COLMAP leave out what is behind a camera, so their cost is another one.
    """
    found = {}
    for path in paths:
        name = Path(path).name.split(".")[0].removesuffix("-pre")
        bal = parse_bal(path)
        ahead = depth(bal) < 0
        found[name] = of_bal(bal)
        if not ahead.all():
            found[name] |= {"alone": True}
            found[f"{name}, in front"] = of_bal(only(bal, ahead))
    return found


def only(bal: BalFile, kept: np.ndarray) -> BalFile:
    """Return a problem with some of its observations, and points with two or more."""
    enough = np.bincount(bal.point_of[kept], minlength=len(bal.points)) > 1
    kept = kept & enough[bal.point_of]
    renamed = (np.cumsum(enough) - 1).astype(np.int32)[bal.point_of[kept]]
    of, pixels = bal.camera_of[kept], bal.pixels[kept]
    return BalFile(of, renamed, pixels, bal.cameras, bal.points[enough])


def g2o_files(paths: list[str], refused: dict[str, str]) -> dict[str, dict]:
    """Return pose graphs by name; why a file is refused goes into ``refused``."""
    found = {}
    for path in paths:
        try:
            graph = parse_g2o(path)
        except ValueError as error:
            refused[Path(path).name] = str(error).removeprefix(f"{path}:")
            continue
        if count := int(np.sum(~semidefinite(graph.information))):
            # every program makes something else of them
            refused[Path(path).name] = f"{count} information matrices are indefinite"
            continue
        fields = {k: v for k, v in graph._asdict().items() if k not in ("ids", "made")}
        found[Path(path).name.removesuffix(".g2o")] = {"kind": "graph", **fields}
    return found


def rotate(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return points (k, 3) turned by rotation vectors (k, 3)."""
    angle = np.linalg.norm(w, axis=1, keepdims=True)
    k = w / np.maximum(angle, 1e-300)
    c, s = np.cos(angle), np.sin(angle)
    return x * c + np.cross(k, x) * s + k * np.sum(k * x, 1, keepdims=True) * (1 - c)


def depth(bal: BalFile) -> np.ndarray:
    """Return z of each observation: negative in front of the camera."""
    camera = bal.cameras[bal.camera_of]
    return (rotate(camera[:, :3], bal.points[bal.point_of]) + camera[:, 3:6])[:, 2]


def project(camera: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return pixels (k, 2) by the camera of the BAL format."""
    x = rotate(camera[:, :3], points) + camera[:, 3:6]
    p = -x[:, :2] / x[:, 2:]
    n = np.sum(p * p, 1)
    return (camera[:, 6] * (1 + n * (camera[:, 7] + n * camera[:, 8])))[:, None] * p


def bal_cost(data: dict, cameras: np.ndarray, points: np.ndarray) -> float:
    """Return half the sum of squares, in NumPy: the same judge for everybody."""
    seen = project(cameras[data["camera_of"]], points[data["point_of"]])
    return 0.5 * float(np.sum((seen - data["pixels"]) ** 2))


def world(cameras: int, points: int, track: float, seed: int = 0) -> dict:
    """Return cameras on a loop that look inwards, each point seen by a few neighbours.

    Half a pixel of noise. The start is off by a fiftieth of a radian and a fifth in
    space, and knows neither the focal length to better than five percent nor the
    distortion.
    """
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(cameras) / cameras
    true = np.zeros((cameras, 9))
    # The camera looks along its own -z, from a radius of 10 to the middle, y up.
    out = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    up = np.array([0.0, 0.0, 1.0])
    axes = np.stack([np.cross(up, out), np.tile(up, (cameras, 1)), out], 1)
    true[:, :3] = vectors(axes) + 0.02 * rng.standard_normal((cameras, 3))
    centre = 10 * out + 0.3 * rng.standard_normal((cameras, 3))
    true[:, 3:6] = -rotate(true[:, :3], centre)
    true[:, 6] = 800 + 50 * rng.standard_normal(cameras)
    true[:, 7:] = rng.normal([-0.05, 0.01], [0.02, 0.005], (cameras, 2))
    space = rng.uniform(-3, 3, (points, 3)) * [1, 1, 0.8]
    seen = 2 + rng.poisson(track - 2, points)
    point_of = np.repeat(np.arange(points), seen)
    place = np.arange(len(point_of)) - np.repeat(np.cumsum(seen) - seen, seen)
    # Neighbours on the loop, some of them skipped.
    stride = rng.integers(1, 4, points)
    first = rng.integers(0, cameras, points)
    camera_of = (first[point_of] + stride[point_of] * place) % cameras
    pixels = project(true[camera_of], space[point_of])
    pixels += 0.5 * rng.standard_normal(pixels.shape)
    order = np.argsort(camera_of, kind="stable")
    noise = np.array([0.02] * 3 + [0.2] * 3 + [40.0, 0.0, 0.0])
    start = true + noise * rng.standard_normal(true.shape)
    start[:, 7:] = 0
    around = space + 0.2 * rng.standard_normal(space.shape)
    seen_by, which = camera_of[order].astype(np.int32), point_of[order].astype(np.int32)
    return of_bal(BalFile(seen_by, which, pixels[order], start, around))


def vectors(matrices: np.ndarray) -> np.ndarray:
    """Return rotation vectors of matrices (k, 3, 3)."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(matrices).as_rotvec()


def small_worlds(seed: int = 0) -> dict:
    """Return a thousand pairs of cameras that see twenty points; the first is fixed."""
    rng = np.random.default_rng(seed)
    n, k = SMALL, SMALL_POINTS
    poses = np.zeros((n, 2, 6))
    poses[:, 1, :3] = 0.1 * rng.standard_normal((n, 3))
    poses[:, 1, 3:] = [1.0, 0.0, 0.0] + 0.1 * rng.standard_normal((n, 3))
    points = rng.uniform([-2, -2, -8], [2, 2, -4], (n, k, 3))
    camera = np.zeros((n, 2, k, 9))
    camera[..., :6], camera[..., 6] = poses[:, :, None], SMALL_FOCAL
    spread = np.broadcast_to(points[:, None], (n, 2, k, 3))
    pixels = project(camera.reshape(-1, 9), spread.reshape(-1, 3)).reshape(n, 2, k, 2)
    pixels += 0.5 * rng.standard_normal(pixels.shape)
    poses[:, 1] += rng.normal(0, [0.02] * 3 + [0.05] * 3, (n, 6))
    points += 0.1 * rng.standard_normal(points.shape)
    arrays = {"poses": poses, "points": points, "pixels": pixels}
    return {"kind": "small", "focal": SMALL_FOCAL, **arrays}
