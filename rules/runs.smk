# One run per pair and experiment (a model in a setting): the same rule for each experiment.
# In a loop: `use rule ... as` needs names written out, and models and settings are the user's.
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
        priority: PLAN.priority(experiment)
        resources:
            **PLAN.slots(experiment),
            run_slots=1,
            attempt=attempt_number,
        params:
            call=call("run", "--run", f"{experiment.run_name}/{experiment.setting.mode}/"),
        shell:
            "{params.call}{wildcards.pair:q} --try {resources.attempt} --log {log:q}"
