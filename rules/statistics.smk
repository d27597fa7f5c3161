# What the tables say: comparisons, breakdowns, tables and plots for a paper. All from runs.csv.
BREAKDOWNS = [RESULTS.table(f"{name}.csv") for name in layout.BREAKDOWNS]
HEADLINES = [
    RESULTS.table(f"{name}.{kind}") for name in ("summary", "comparison") for kind in ("tex", "md")
]
PLOTS = [RESULTS.plot(name, kind) for name in layout.PLOTS for kind in layout.PLOT_KINDS]
STATISTICS = [RESULTS.comparison_csv, *BREAKDOWNS, *HEADLINES, *PLOTS]


rule comparison:
    input:
        RESULTS.runs_csv,
    output:
        RESULTS.comparison_csv,
    log:
        "logs/comparison.log",
    params:
        call=call("comparison"),
    shell:
        "{params.call} --log {log:q}"


rule breakdowns:
    input:
        RESULTS.runs_csv,
    output:
        BREAKDOWNS,
    log:
        "logs/breakdowns.log",
    params:
        call=call("breakdowns"),
    shell:
        "{params.call} --log {log:q}"


rule headlines:
    input:
        RESULTS.summary_csv,
        RESULTS.comparison_csv,
    output:
        HEADLINES,
    log:
        "logs/headlines.log",
    params:
        call=call("headlines"),
    shell:
        "{params.call} --log {log:q}"


rule plots:
    input:
        RESULTS.runs_csv,
        RESULTS.summary_csv,
        RESULTS.comparison_csv,
        BREAKDOWNS,
    output:
        PLOTS,
    log:
        "logs/plots.log",
    params:
        call=call("plots"),
    shell:
        "{params.call} --log {log:q}"
