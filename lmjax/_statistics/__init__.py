"""From a solution to what a scientist quotes: covariance, errors, criteria."""
