"""The replay server: it plays recorded agents, and neither contains nor calls a model."""
