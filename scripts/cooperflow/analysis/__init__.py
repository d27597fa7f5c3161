"""Analysis of runs: losses of cooperation, conflicts and messages."""
