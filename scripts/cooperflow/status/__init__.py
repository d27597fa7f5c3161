"""How far an experiment is, and how that reads in a terminal."""
