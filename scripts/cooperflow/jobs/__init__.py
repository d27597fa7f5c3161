"""The jobs of Snakemake's rules: launcher, admission (circuit breaker, budget), notifications."""
