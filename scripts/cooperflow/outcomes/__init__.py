"""Outcomes of runs: calls and evidence, their judgement, and the documents with the result."""
