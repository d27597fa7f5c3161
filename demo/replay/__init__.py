"""The replay server, which plays recorded agents and neither contains nor calls a model."""
