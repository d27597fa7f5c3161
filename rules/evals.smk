# Evaluates each run with the benchmark's tests when the run has ended.
for experiment in PLAN.experiments:

    rule:
        name:
            f"eval_{PLAN.rule(experiment)}"
        input:
            inputs_of_evaluation(experiment),
        output:
            f"{RESULTS.mode(experiment.run_name, experiment.setting.mode)}/{PAIR}/{layout.EVAL}",
        log:
            f"logs/evals/{experiment.run_name}/{PAIR}.log",
        priority: PLAN.evaluation_priority
        threads: 0  # eval_slots limits them, not cores
        resources:
            eval_slots=1,
            try_number=try_number,
        params:
            call=call("eval"),
            folder=f"{experiment.run_name}/{experiment.setting.mode}",
        shell:
            "{params.call} --run {params.folder:q}/{wildcards.pair:q}"
            " --try {resources.try_number} --log {log:q}"
