# The main tables: runs.csv (one row per run) and summary.csv (one row per experiment).
rule aggregate:
    input:
        inputs_of_tables,
    output:
        report(
            RESULTS.runs_csv,
            caption="../report/runs.rst",
            category="Tables",
            labels={"table": "runs"},
        ),
        report(
            RESULTS.summary_csv,
            caption="../report/summary.rst",
            category="Tables",
            labels={"table": "summary"},
        ),
    log:
        "logs/aggregate.log",
    params:
        call=call("aggregate"),
    shell:
        "{params.call} --log {log:q}"
