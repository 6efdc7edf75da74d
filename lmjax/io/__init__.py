"""Files of bundle adjustment (BAL) and of pose graphs (g2o)."""
