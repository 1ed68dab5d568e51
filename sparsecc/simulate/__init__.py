"""What training a mixture of experts takes on a cluster: operators, composed to the time of a step.

The method is that of Pangu Ultra MoE (arXiv 2505.04519, section 2.2): times of single operators are
validated where they run, composed bottom-up to the throughput of a system, and configurations are
ranked by it.
"""

from sparsecc.simulate.choice import Choice
from sparsecc.simulate.cluster import Cluster, read_cluster
from sparsecc.simulate.model import Model, read_model
from sparsecc.simulate.search import Found, search
from sparsecc.simulate.step import Outcome, simulate

__all__ = [
    "Choice",
    "Cluster",
    "Found",
    "Model",
    "Outcome",
    "read_cluster",
    "read_model",
    "search",
    "simulate",
]
