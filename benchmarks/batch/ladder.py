"""Equal final cost: the loosest setting at which a peer is no worse than lmjax."""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.batch import judge
from benchmarks.batch.judge import Excess, Judge
from benchmarks.batch.peers import Peer, Runner
from benchmarks.batch.workloads import Workload

# Excesses that differ by less than a hundredth of a standard error count as equal:
# below, rounding of float32 decides. This only ever helps the peers, since lmjax runs
# at the workload's own tolerance whatever comes of it.
FLOOR = 1e-4
PATIENCE = 3  # decades without progress after which a ladder ends


class Setting(NamedTuple):
    """A peer at the tolerance it is timed at.

    Attributes:
        runner: The prepared peer.
        tol: Tolerance.
        max_steps: Limit on its steps.
        equal: Whether it is no worse than lmjax there.
        found: What `Runner.run` returned at this setting.
        excess: How far above the tight minimum.
    """

    runner: Runner
    tol: float
    max_steps: int
    equal: bool
    found: tuple[Any, ...]
    excess: Excess


def tolerances(dtype) -> list[float]:
    """Return the decades from 0.1 to just above the precision."""
    last = int(-np.log10(np.finfo(dtype).eps))
    return [10.0**-k for k in range(1, last + 1)]


def no_worse(theirs: Excess, ours: Excess) -> bool:
    """Compare the median and the 99th percentile on the fits that both ran."""
    _, a, b = np.intersect1d(theirs.fits, ours.fits, return_indices=True)
    theirs = Excess(*(field[a] for field in theirs))
    ours = Excess(*(field[b] for field in ours))
    pairs = zip(judge.quantiles(theirs), judge.quantiles(ours), strict=True)
    return all(their <= max(our, FLOOR) for their, our in pairs)


def at(peer: Peer, workload: Workload, judged: Judge, tol: float) -> Setting:
    """Run a peer at one tolerance and the workload's own limit, for `choose`."""
    runner = peer.prepare(workload, workload.max_steps)
    return _try(runner, judged, tol, workload.max_steps)._replace(equal=True)


def choose(peer: Peer, workload: Workload, judged: Judge, ours: Excess) -> Setting:
    """Return the loosest setting no worse than ``ours``, or else the best there is.

    The workload's own limit on steps is tried first, then ten times as many; all on the
    judged fits, so that the search costs no more with 10^6 fits than with 10^4.
    """
    part = workload.take(judged.fits)
    best, key = None, None
    for factor in peer.limits:
        limit = factor * workload.max_steps
        runner = peer.prepare(part, limit)
        runner = runner._replace(fits=judged.fits[runner.fits])
        merits = []
        for tol in tolerances(workload.y.dtype):
            setting = _try(runner, judged, tol, limit)
            if no_worse(setting.excess, ours):
                return _whole(peer, workload, judged, setting._replace(equal=True))
            merit = judge.quantiles(setting.excess)[::-1]
            if key is None or merit < key:
                best, key = setting, merit
            merits.append(merit)
            if _stuck(merits):
                break
    return _whole(peer, workload, judged, best)


def _try(runner, judged, tol, limit):
    found = runner.run(tol)
    excess = judged.excess(found[0], runner.fits)
    return Setting(runner, tol, limit, False, found, excess)


def _stuck(merits) -> bool:
    """Return whether three more decades improved neither quantile by a percent."""
    if len(merits) <= PATIENCE:
        return False
    before, after = np.array(merits[-1 - PATIENCE]), np.array(merits[-PATIENCE:])
    return bool(np.all(after >= 0.99 * before))


def _whole(peer, workload, judged, setting):
    """Return the setting for all fits, where only a part was judged."""
    if len(judged.fits) == workload.fits:
        return setting
    runner = peer.prepare(workload, setting.max_steps)
    whole = _try(runner, judged, setting.tol, setting.max_steps)
    return whole._replace(equal=setting.equal)
