"""The experiment: its config, pairs, runs, data set and fingerprint."""
