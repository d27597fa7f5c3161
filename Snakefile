# CooperBench as a workflow: images -> runs (solo, coop-comm, coop-nocomm) -> evals -> tables.


configfile: "config/config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/preflight.smk"
include: "rules/dataset.smk"
include: "rules/images.smk"
include: "rules/runs.smk"
include: "rules/adopt.smk"
include: "rules/evals.smk"
include: "rules/aggregate.smk"
include: "rules/statistics.smk"
include: "rules/oracle.smk"
include: "rules/report.smk"


onstart:
    begin_start(workflow.dag)


localrules:
    adopt,
    all,
    dataset,
    images,
    images_verified,
    oracle,
    preflight,


rule all:
    default_target: True
    input:
        RESULTS.summary_csv,
        RESULTS.runs_csv,
        STATISTICS,
        rules.report.output,
        [run.folder(RESULTS).result for run in PLAN.runs],
        [run.folder(RESULTS).eval for run in PLAN.runs],
