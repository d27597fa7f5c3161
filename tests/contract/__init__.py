"""Facts about dependencies that the workflow relies on, each with a small test."""
