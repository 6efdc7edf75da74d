"""Bundle adjustment and pose graphs by gtsam; imports nothing of lmjax."""

import time

import gtsam
import numpy as np

from benchmarks.worlds.geometry import FLIP, matrix, vector


class Gtsam:
    """gtsam's Levenberg-Marquardt with Ceres' settings, or with its own."""

    def __init__(self, data, legacy):
        self.data, self.legacy = data, legacy
        kind = str(data["kind"])
        began = time.perf_counter()
        make = {"bal": self.bal, "graph": self.graph, "small": self.small}[kind]
        self.problems = make()
        self.build = time.perf_counter() - began

    def options(self, request):
        """Return the settings."""
        kinds = gtsam.LevenbergMarquardtParams
        options = kinds.LegacyDefaults() if self.legacy else kinds.CeresDefaults()
        options.setMaxIterations(request["max_steps"])
        options.setRelativeErrorTol(request["ftol"])
        options.setAbsoluteErrorTol(0.0)
        return options

    def camera(self, c):
        """Return a camera; ours looks along -z, gtsam's along z."""
        turn, shift = FLIP @ matrix(c[:3]), FLIP @ c[3:6]
        pose = gtsam.Pose3(gtsam.Rot3(turn.T), gtsam.Point3(-turn.T @ shift))
        lens = gtsam.Cal3Bundler(c[6], c[7], c[8], 0, 0)
        return gtsam.PinholeCameraCal3Bundler(pose, lens)

    def bal(self):
        """Return the graph, the start and the order of a bundle adjustment."""
        data = self.data
        graph, start = gtsam.NonlinearFactorGraph(), gtsam.Values()
        noise, cameras = gtsam.noiseModel.Unit.Create(2), len(data["cameras"])
        for i, c in enumerate(data["cameras"]):
            start.insert(i, self.camera(c))
        for j, x in enumerate(data["points"]):
            start.insert(cameras + j, gtsam.Point3(x))
        rows = zip(data["camera_of"], data["point_of"], data["pixels"], strict=True)
        for i, j, (x, y) in rows:
            pixel, key = np.array([x, -y]), cameras + int(j)
            graph.add(gtsam.GeneralSFMFactorCal3Bundler(pixel, noise, int(i), key))
        order = gtsam.Ordering()
        for key in [*range(cameras, cameras + len(data["points"])), *range(cameras)]:
            order.push_back(key)
        return [(graph, start, order)]

    def graph(self):
        """Return a pose graph; a tight prior holds its first pose."""
        data = self.data
        flat = int(data["dimension"]) == 2
        width = 3 if flat else 6
        turn = [0, 1, 2] if flat else [3, 4, 5, 0, 1, 2]
        factor = gtsam.BetweenFactorPose2 if flat else gtsam.BetweenFactorPose3
        prior = gtsam.PriorFactorPose2 if flat else gtsam.PriorFactorPose3
        graph, start = gtsam.NonlinearFactorGraph(), gtsam.Values()
        for k, pose in enumerate(map(self.pose, data["poses"])):
            start.insert(k, pose)
        tight = gtsam.noiseModel.Isotropic.Sigma(width, 1e-3)
        fixed = np.flatnonzero(data["fixed"])
        for k in fixed if len(fixed) else [0]:
            graph.add(prior(int(k), self.pose(data["poses"][k]), tight))
        keys = ("i", "j", "measurements", "information")
        for i, j, z, info in zip(*(data[key] for key in keys), strict=True):
            noise = gtsam.noiseModel.Gaussian.Information(info[np.ix_(turn, turn)])
            graph.add(factor(int(i), int(j), self.pose(z), noise))
        return [(graph, start, None)]

    def pose(self, numbers):
        """Return a pose."""
        if len(numbers) == 3:
            return gtsam.Pose2(*map(float, numbers))
        turn = gtsam.Rot3.Quaternion(*map(float, numbers[3:]))
        return gtsam.Pose3(turn, gtsam.Point3(numbers[:3]))

    def small(self):
        """Return the small bundle adjustments."""
        data = self.data
        lens = gtsam.Cal3_S2(*[float(data["focal"])] * 2, 0, 0, 0)
        noise = gtsam.noiseModel.Unit.Create(2)
        tight = gtsam.noiseModel.Isotropic.Sigma(6, 1e-3)
        problems = []
        every = zip(data["poses"], data["points"], data["pixels"], strict=True)
        for poses, points, pixels in every:
            graph, start = gtsam.NonlinearFactorGraph(), gtsam.Values()
            for i, p in enumerate(poses):
                turn, shift = FLIP @ matrix(p[:3]), FLIP @ p[3:]
                place = gtsam.Pose3(gtsam.Rot3(turn.T), gtsam.Point3(-turn.T @ shift))
                start.insert(i, place)
                if not i:
                    graph.add(gtsam.PriorFactorPose3(i, place, tight))
            order = gtsam.Ordering()
            for j, x in enumerate(points):
                start.insert(2 + j, gtsam.Point3(x))
                order.push_back(2 + j)
                for i in (0, 1):
                    pixel = pixels[i, j] * [1, -1]
                    graph.add(
                        gtsam.GenericProjectionFactorCal3_S2(
                            pixel, noise, i, 2 + j, lens
                        )
                    )
            order.push_back(0), order.push_back(1)
            problems.append((graph, start, order))
        return problems

    def solve(self, request):
        """Solve, and note the cost after every step."""
        options = self.options(request)
        total, each, steps, history, stopped = 0.0, [], [], [], True
        for graph, start, order in self.problems:
            if order is not None:
                options.setOrdering(order)
            began = time.perf_counter()
            run = gtsam.LevenbergMarquardtOptimizer(graph, start, options)
            before = run.error()
            history = [(0.0, before)]
            for _ in range(request["max_steps"]):
                run.iterate()
                history.append((time.perf_counter() - began, run.error()))
                small = before - run.error() <= request["ftol"] * before
                if small:
                    break
                before = run.error()
            total += history[-1][0]
            stopped = stopped and small
            each.append(history[-1][1])
            steps.append(len(history) - 1)
        self.values = run.values()
        return {
            "seconds": total,
            "initial": sum(graph.error(start) for graph, start, _ in self.problems),
            "cost": sum(each),
            "steps": float(np.mean(steps)),
            "status": "FTOL" if stopped else "MAX_STEPS",
            **({"each": each} if len(each) > 1 else {}),
            "costs": [cost for _, cost in history[1:]] if len(each) == 1 else [],
            "times": [when for when, _ in history[1:]] if len(each) == 1 else [],
        }

    def params(self):
        """Return cameras and points as in the BAL format."""
        n = len(self.data["cameras"])
        cameras = []
        for i in range(n):
            camera = self.values.atPinholeCameraCal3Bundler(i)
            pose, lens = camera.pose(), camera.calibration()
            turn = FLIP @ pose.rotation().matrix().T
            place = -turn @ pose.translation()
            optics = [lens.fx(), lens.k1(), lens.k2()]
            cameras.append([*vector(turn), *place, *optics])
        points = [self.values.atPoint3(n + j) for j in range(len(self.data["points"]))]
        return {"cameras": np.array(cameras), "points": np.array(points)}
