"""Bundle adjustment by Ceres, by way of COLMAP; imports nothing of lmjax.

COLMAP's camera RADIAL with the principal point held at 0 is that of the BAL format,
once y and z are turned around. Like gtsam, COLMAP leaves out what is behind a camera.
"""

import os
import tempfile
import time

import numpy as np
import pycolmap

from benchmarks.worlds.geometry import FLIP, matrix, vector


class Ceres:
    """Ceres, from COLMAP; a reconstruction is built anew for each run."""

    def __init__(self, data):
        self.data = data
        self.types = pycolmap._core.pyceres
        began = time.perf_counter()
        self.made = self.reconstruction()
        self.build = time.perf_counter() - began

    def reconstruction(self):
        """Return cameras, images and tracks."""
        data = self.data
        made, of, seen = pycolmap.Reconstruction(), data["camera_of"], data["point_of"]
        slot = np.empty(len(of), int)
        for i, c in enumerate(data["cameras"]):
            lens = [c[6], 0, 0, c[7], c[8]]
            camera = pycolmap.Camera(
                camera_id=i + 1, model="RADIAL", width=1, height=1, params=lens
            )
            made.add_camera_with_trivial_rig(camera)
            rows = np.flatnonzero(of == i)
            slot[rows] = np.arange(len(rows))
            pixels = data["pixels"][rows] * [1, -1]
            image = pycolmap.Image(
                name=str(i), keypoints=pixels, camera_id=i + 1, image_id=i + 1
            )
            turn = pycolmap.Rotation3d(FLIP @ matrix(c[:3]))
            made.add_image_with_trivial_frame(
                image, pycolmap.Rigid3d(turn, FLIP @ c[3:6])
            )
        order = np.argsort(seen, kind="stable")
        ends = np.searchsorted(seen[order], np.arange(len(data["points"]) + 1))
        self.ids = []
        for j, x in enumerate(data["points"]):
            track = pycolmap.Track()
            for k in order[ends[j] : ends[j + 1]]:
                track.add_element(int(of[k]) + 1, int(slot[k]))
            self.ids.append(made.add_point3D(x, track))
        return made

    def solve(self, request):
        """Solve, and read the cost after every step from the log."""
        types, n = self.types, len(self.data["cameras"])
        if self.made is None:
            self.made = self.reconstruction()
        options = pycolmap.BundleAdjustmentOptions()
        options.refine_sensor_from_rig, options.print_summary = False, False
        options.ceres.auto_select_solver_type = False
        solver = options.ceres.solver_options
        kinds = types.LinearSolverType
        solver.linear_solver_type = (
            kinds.DENSE_SCHUR if n <= 100 else kinds.SPARSE_SCHUR
        )
        solver.max_num_iterations = request["max_steps"]
        solver.function_tolerance = request["ftol"]
        solver.gradient_tolerance = solver.parameter_tolerance = 0.0
        solver.num_threads = os.cpu_count()
        solver.logging_type = types.LoggingType.PER_MINIMIZER_ITERATION
        solver.minimizer_progress_to_stdout = True
        config = pycolmap.BundleAdjustmentConfig()
        for i in range(n):
            config.add_image(i + 1)
        with tempfile.TemporaryFile() as log:
            kept = os.dup(1)
            os.dup2(log.fileno(), 1)
            began = time.perf_counter()
            adjuster = pycolmap.create_default_ceres_bundle_adjuster(
                options, config, self.made
            )
            summary = adjuster.solve().ceres_summary
            seconds = time.perf_counter() - began
            os.dup2(kept, 1)
            os.close(kept)
            log.seek(0)
            lines = [line.split() for line in log.read().decode().splitlines()]
        rows = [line for line in lines if len(line) == 10 and line[0].isdigit()]
        # Rejected steps leave the cost as it was; Ceres prints the cost of the trial.
        costs = np.minimum.accumulate([float(row[1]) for row in rows]).tolist()
        preparation = seconds - summary.total_time_in_seconds
        times = [preparation + float(row[9]) for row in rows]
        self.done, self.made = self.made, None
        return {
            "seconds": seconds,
            "initial": summary.initial_cost,
            "cost": summary.final_cost,
            "steps": summary.num_successful_steps + summary.num_unsuccessful_steps - 1,
            "status": summary.termination_type.name,
            "costs": costs[1:],
            "times": times[1:],
            "residuals": summary.num_residuals,
            "free": summary.num_effective_parameters_reduced,
        }

    def params(self):
        """Return cameras and points as in the BAL format."""
        cameras, made = [], self.done
        for i in range(len(self.data["cameras"])):
            pose = made.images[i + 1].cam_from_world()
            lens = made.cameras[i + 1].params
            turn, shift = FLIP @ pose.rotation.matrix(), FLIP @ pose.translation
            cameras.append([*vector(turn), *shift, lens[0], *lens[3:]])
        points = np.array([made.points3D[j].xyz for j in self.ids])
        return {"cameras": np.array(cameras), "points": points}
