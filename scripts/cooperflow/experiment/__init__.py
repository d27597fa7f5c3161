"""The experiment: config, pairs, runs, data set and fingerprint."""
