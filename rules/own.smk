# Evaluates each agent's patch of a coop run alone, by the tests of the agent's own feature.
for experiment in PLAN.experiments:
    if not PLAN.has_own_features(experiment):
        continue

    rule:
        name:
            f"own_{PLAN.rule(experiment)}"
        input:
            inputs_of_evaluation(experiment, layout.OWN, redo.own_marker),
        output:
            f"{RESULTS.mode(experiment.run_name, experiment.setting.mode)}/{PAIR}/{layout.OWN}",
        log:
            f"logs/own/{experiment.run_name}/{PAIR}.log",
        # The lowest priority, for idle evaluation slots.
        priority: 0
        threads: 0  # eval_slots limits them, not cores
        resources:
            eval_slots=1,
            try_number=try_number,
        params:
            call=call("own"),
            folder=f"{experiment.run_name}/{experiment.setting.mode}",
        shell:
            "{params.call} --run {params.folder:q}/{wildcards.pair:q}"
            " --try {resources.try_number} --log {log:q}"
