# Results in the formats of other tools: `snakemake export` writes results/export/.
rule export:
    input:
        RESULTS.runs_csv,
        RESULTS.summary_csv,
    output:
        RESULTS.export_contents,
    log:
        "logs/export.log",
    params:
        call=call("export"),
    shell:
        "{params.call} --log {log:q}"
