# Evaluates each agent's patch of a coop run alone, by the tests of its own feature: no model.
for experiment in PLAN.experiments:
    if not PLAN.has_own_features(experiment):
        continue

    rule:
        name:
            f"own_{PLAN.rule(experiment)}"
        input:
            inputs_of_evaluation(experiment, layout.OWN, redo.own_name),
        output:
            f"{RESULTS.mode(experiment.run_name, experiment.setting.mode)}/{PAIR}/{layout.OWN}",
        log:
            f"logs/own/{experiment.run_name}/{PAIR}.log",
        # Below every run and evaluation: for evaluation slots that are idle.
        priority: 0
        threads: 0  # eval_slots limits them, not cores
        resources:
            eval_slots=1,
            attempt=attempt_number,
        params:
            call=call("own", "--run", f"{experiment.run_name}/{experiment.setting.mode}/"),
        shell:
            "{params.call}{wildcards.pair:q} --try {resources.attempt} --log {log:q}"
