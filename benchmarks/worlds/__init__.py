"""Bundle adjustment and pose graphs next to gtsam and Ceres: see `__main__`."""
