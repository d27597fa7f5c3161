"""Progress of an experiment, read from its files."""
