# The provenance of the results, and the HTML report: results/report/index.html.
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
        COMMUNICATION,
        RESULTS.provenance,
    output:
        # Not the folder, because Snakemake would delete all pages before it writes the outdated
        # pages.
        RESULTS.report / "index.html",
    log:
        "logs/report.log",
    params:
        call=call("report"),
    shell:
        "{params.call} --log {log:q}"
