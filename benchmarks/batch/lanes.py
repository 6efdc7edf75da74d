"""How much of the work that a batch executes is useful.

A lane is one fit of a batch. A vmapped ``while_loop`` runs every lane until the slowest
is done, so it executes batch x most steps; what is useful is the sum of the steps.
"""

import numpy as np


def serial(num_steps: np.ndarray) -> int:
    """Return the lane-steps executed by fits that run one after the other."""
    return int(num_steps.sum())


def plain_vmap(num_steps: np.ndarray) -> int:
    """Return the lane-steps executed by one vmapped loop over the whole batch."""
    return int(num_steps.size * num_steps.max(initial=0))


def efficiency(num_steps: np.ndarray, executed: int) -> float:
    """Return useful over executed lane-steps; 1 where nothing was to do."""
    return float(num_steps.sum() / executed) if executed else 1.0
