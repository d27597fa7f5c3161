# Labels a sample of the failed runs by a model: paid, off by default, never part of `all`. No output
# is declared: the answers are a cache that grows, and Snakemake would delete it after a failure.
rule judge:
    input:
        RESULTS.runs_csv,
    log:
        "logs/judge.log",
    params:
        call=call("judge"),
    shell:
        "{params.call} --log {log:q}"
