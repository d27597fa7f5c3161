# The tables: one row per run, one per experiment.
rule aggregate:
    input:
        [run.folder(RESULTS).eval for run in PLAN.runs],
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
        python=sys.executable,
        script=SCRIPTS / "aggregate.py",
    shell:
        "{params.python:q} {params.script:q} --log {log:q}"
