# The tables: one row per run, one per experiment.
rule aggregate:
    input:
        lambda _: every(layout.EVAL),
        # Never newer than the gradings in what matters, but they must be there.
        lambda _: ancient(every(layout.RESULT)),
        lambda _: other_plan(),
        # No rule makes this note: an oracle that has said something new is all it tells.
        [RESULTS.oracle_note] if RESULTS.oracle_note.exists() else [],
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
