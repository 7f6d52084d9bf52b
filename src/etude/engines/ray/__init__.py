"""The Ray engine: runs are trained by the workers of a cluster, and their states travel."""
