# Where the results come from, and the report: results/report/index.html, one folder that opens
# from disk.
rule provenance:
    input:
        RESULTS.runs_csv,
    output:
        report(
            RESULTS.provenance,
            caption="../report/provenance.rst",
            category="Provenance",
            labels={"document": "provenance"},
        ),
    log:
        "logs/provenance.log",
    params:
        call=call("provenance"),
    shell:
        "{params.call} --log {log:q}"


rule report:
    input:
        RESULTS.runs_csv,
        RESULTS.summary_csv,
        RESULTS.comparison_csv,
        BREAKDOWNS,
        RESULTS.provenance,
    output:
        # Not the whole folder: Snakemake would remove its pages first, and they are made only
        # when their run has changed.
        RESULTS.report / "index.html",
    log:
        "logs/report.log",
    params:
        call=call("report"),
    shell:
        "{params.call} --log {log:q}"
