# The report: results/report/index.html, one folder that opens from disk.
rule report:
    input:
        RESULTS.runs_csv,
        RESULTS.summary_csv,
    output:
        # Not the whole folder: Snakemake would remove its pages first, and they are made only
        # when their run has changed.
        RESULTS.root / "report" / "index.html",
    log:
        "logs/report.log",
    params:
        python=sys.executable,
        script=SCRIPTS / "report.py",
    shell:
        "{params.python:q} {params.script:q} --log {log:q}"
