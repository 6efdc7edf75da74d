"""Files of bundle adjustment (BAL) and of pose graphs (g2o).

What the readers return is ready for `lmjax.least_squares`:

    bundle = lmjax.io.read_bal("problem.txt.bz2")
    sol = lmjax.least_squares(bundle.blocks, bundle.params)

    graph = lmjax.io.read_g2o("graph.g2o", start="chordal")
    sol = lmjax.least_squares(
        graph.blocks, graph.params, manifold=graph.manifold, fixed=graph.fixed
    )
"""

from lmjax.io._bundle import Bundle as Bundle
from lmjax.io._bundle import read_bal as read_bal
from lmjax.io._camera import project as project
from lmjax.io._graph import PoseGraph as PoseGraph
from lmjax.io._graph import read_g2o as read_g2o

NAMES = ("Bundle", "PoseGraph", "project", "read_bal", "read_g2o")
