"""The losses of cooperation: own features, conflicts and messages of the runs."""
