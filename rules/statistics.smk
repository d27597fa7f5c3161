# Comparisons, breakdowns, communication tables, headline tables and plots.
BREAKDOWNS = [RESULTS.table(f"{name}.csv") for name in layout.BREAKDOWNS]
COMMUNICATION = [
    RESULTS.communication_csv,
    RESULTS.messages_csv,
    RESULTS.team_tasks_csv,
    *(RESULTS.table(f"{name}.csv") for name in layout.COMMUNICATION),
]
HEADLINES = [
    RESULTS.table(f"{name}.{kind}") for name in ("summary", "comparison") for kind in ("tex", "md")
]
PLOTS = [RESULTS.plot(name, kind) for name in layout.PLOTS for kind in layout.PLOT_KINDS]
STATISTICS = [RESULTS.comparison_csv, *BREAKDOWNS, *COMMUNICATION, *HEADLINES, *PLOTS]


rule derived_tables:
    input:
        RESULTS.runs_csv,
        RESULTS.summary_csv,
    output:
        report(
            RESULTS.comparison_csv,
            caption="../report/comparison.rst",
            category="Tables",
            labels={"table": "comparison"},
        ),
        [
            report(
                path,
                caption="../report/communication.rst",
                category="Tables",
                labels={"table": path.stem.replace("_", " ")},
            )
            for path in COMMUNICATION
        ],
        BREAKDOWNS,
        HEADLINES,
    log:
        "logs/derived_tables.log",
    params:
        call=call("derived_tables"),
    shell:
        "{params.call} --log {log:q}"


rule plots:
    input:
        RESULTS.runs_csv,
        RESULTS.summary_csv,
        RESULTS.comparison_csv,
        BREAKDOWNS,
        COMMUNICATION,
    output:
        [path for path in PLOTS if path.suffix != ".svg"],
        # One format is enough for Snakemake's report.
        [
            report(
                RESULTS.plot(name, "svg"),
                caption=f"../report/plots/{name}.rst",
                category="Plots",
                subcategory=topic,
                labels={"plot": name.replace("_", " ")},
            )
            for name, topic in layout.PLOTS.items()
        ],
    log:
        "logs/plots.log",
    params:
        call=call("plots"),
    shell:
        "{params.call} --log {log:q}"
