# The tables: one row per run, one per experiment.
rule aggregate:
    input:
        [run.folder(RESULTS).eval for run in PLAN.runs],
    output:
        RESULTS.runs_csv,
        RESULTS.summary_csv,
    log:
        "logs/aggregate.log",
    params:
        python=sys.executable,
        script=SCRIPTS / "aggregate.py",
    shell:
        "{params.python:q} {params.script:q} --log {log:q}"
