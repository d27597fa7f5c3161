# CooperBench as a workflow: images -> runs (solo, coop-comm, coop-nocomm) -> evals, own features ->
# tables, plots, report. On request: oracle, adopt, export, judge.


configfile: "config/config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/preflight.smk"
include: "rules/dataset.smk"
include: "rules/images.smk"
include: "rules/runs.smk"
include: "rules/adopt.smk"
include: "rules/evals.smk"
include: "rules/own.smk"
include: "rules/aggregate.smk"
include: "rules/statistics.smk"
include: "rules/oracle.smk"
include: "rules/report.smk"
include: "rules/export.smk"
include: "rules/judge.smk"


# Only these rules are retried: an engine, the network or a provider may fail temporarily.
snakemake_setup.retry_only(workflow, ("run_", "eval_", "own_", "image", "oracle_pair"))


onstart:
    start_session(workflow.dag)


onsuccess:
    end_session(True)


onerror:
    end_session(False)


# These rules start no container, so they run where Snakemake runs, not on cluster nodes.
localrules:
    adopt,
    aggregate,
    all,
    dataset,
    dataset_checked,
    derived_tables,
    export,
    images,
    images_verified,
    judge,
    oracle,
    oracle_table,
    plots,
    preflight,
    provenance,
    report,


rule all:
    default_target: True
    input:
        RESULTS.summary_csv,
        RESULTS.runs_csv,
        STATISTICS,
        rules.report.output,
