"""The replay model: a server that plays recorded agents. It holds no model and asks none."""
