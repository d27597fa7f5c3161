"""Outcomes of runs: usage and evidence, the judgement, and the published result documents."""
