# One run per pair and setting: the same rule for each row of the settings table.
for rank, setting in enumerate(PLAN.settings, start=1):

    rule:
        name:
            f"run_{setting.identifier}"
        input:
            # A finished run has no inputs: nothing can make it be paid for again.
            lambda wc, s=setting: (
                [] if run_of(wc, s).folder(RESULTS).result.exists() else ancient(images_before(wc))
            ),
        output:
            RESULTS.runs
            / f"{{model}}-{setting.name}{{repeat}}"
            / setting.mode
            / PAIR
            / layout.RESULT,
        log:
            f"logs/runs/{{model}}-{setting.name}{{repeat}}/{PAIR}.log",
        priority: 100 - 10 * rank
        resources:
            run_slots=1,
            attempt=lambda wc, attempt: attempt,
        params:
            python=sys.executable,
            script=SCRIPTS / "run.py",
            setting=setting.name,
            retries=retries,
        shell:
            "{params.python:q} {params.script:q}"
            " --run-name {wildcards.model:q}-{params.setting:q}{wildcards.repeat}"
            " --repo {wildcards.repo:q} --task {wildcards.task} --features {wildcards.a},{wildcards.b}"
            " --try {resources.attempt} --retries {params.retries} --log {log:q}"
