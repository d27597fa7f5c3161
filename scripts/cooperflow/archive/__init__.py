"""Provenance, the reviewers' bundle, recordings and adopted runs."""
