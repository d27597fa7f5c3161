# Lets a model label a sample of the failed runs: paid, off by default, never part of `all`. The
# rule has no output, because the answers are a growing cache, which Snakemake would delete after a
# failure.
rule judge:
    input:
        RESULTS.runs_csv,
    log:
        "logs/judge.log",
    params:
        call=call("judge"),
    shell:
        "{params.call} --log {log:q}"
