"""One workload through all peers."""

from benchmarks.batch import ladder, measure
from benchmarks.batch.judge import Judge
from benchmarks.batch.peers import OURS, Peer
from benchmarks.batch.workloads import Workload


def run(workload: Workload, peers: list[Peer], rounds: int, say=print) -> dict:
    """Choose settings, time and record; the first peer is lmjax, which sets the cost.

    Returns:
        Facts about the workload, the records of the peers, and why others refused.
    """
    say(f"{workload.name}: {workload.fits} fits of {workload.y.shape[1]} points")
    judged = Judge(workload)
    first, *others = peers
    settings = {first.name: ladder.at(first, workload, judged, workload.ftol)}
    ours, refused = settings[first.name].excess, {}
    for peer in others:
        reason = peer.refuses(workload)
        if reason is not None:
            refused[peer.name] = reason
            continue
        if peer in OURS:
            settings[peer.name] = ladder.at(peer, workload, judged, workload.ftol)
        else:
            settings[peer.name] = ladder.choose(peer, workload, judged, ours)
    times = measure.seconds(settings, rounds)
    records = {
        peer.name: measure.record(peer, settings[peer.name], times[peer.name])
        for peer in peers
        if peer.name in settings
    }
    return {
        "fits": workload.fits,
        "points": workload.y.shape[1],
        "parameters": workload.start.shape[1],
        "dtype": str(workload.y.dtype),
        "noise": workload.noise,
        "likelihood": workload.likelihood or "gaussian",
        "peers": records,
        "refused": refused,
    }
