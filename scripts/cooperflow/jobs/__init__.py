"""Jobs that Snakemake starts, their launcher, the circuit breaker, the budget and notifications."""
