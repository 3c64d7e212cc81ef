"""The jobs of ``pipelines.archives`` on a Ray cluster, with the same result."""

from ovml_deploy.pipelines.cluster.indexing import index
from ovml_deploy.pipelines.cluster.retagging import retag_blocks
from ovml_deploy.pipelines.cluster.session import Cluster, ClusterError

__all__ = ["Cluster", "ClusterError", "index", "retag_blocks"]
