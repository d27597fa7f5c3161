# Makes one run per pair and experiment (a model in a setting). Each experiment has its own rule,
# because settings are ordered by priority, which cannot be a function, and because a constant path
# makes the DAG cheaper. `use rule ... as` needs literal names, but the config defines the names.
for experiment in PLAN.experiments:
    if experiment.adopted:
        continue

    rule:
        name:
            f"run_{PLAN.rule(experiment)}"
        input:
            inputs_of_run(experiment),
        output:
            f"{RESULTS.mode(experiment.run_name, experiment.setting.mode)}/{PAIR}/{layout.RESULT}",
        log:
            f"logs/runs/{experiment.run_name}/{PAIR}.log",
        priority: PLAN.run_priority(experiment)
        # Limited by run_slots. If runs occupied cores, Snakemake would not start evaluations while
        # all run slots are in use.
        threads: 0
        resources:
            **PLAN.slots(experiment),
            run_slots=1,
            try_number=try_number,
        params:
            call=call("run"),
            folder=f"{experiment.run_name}/{experiment.setting.mode}",
        shell:
            "{params.call} --run {params.folder:q}/{wildcards.pair:q}"
            " --try {resources.try_number} --log {log:q}"
