# The grading of each run by the benchmark's own tests, beside the runs that still go on.
for setting in PLAN.settings:

    rule:
        name:
            f"eval_{setting.identifier}"
        input:
            # ancient: a copy of finished results may have its times in any order.
            result=ancient(
                RESULTS.runs
                / f"{{model}}-{setting.name}{{repeat}}"
                / setting.mode
                / PAIR
                / layout.RESULT
            ),
            # Images are needed only by what is still to be graded.
            images=lambda wc, s=setting: (
                [] if run_of(wc, s).folder(RESULTS).eval.exists() else ancient(RESULTS.gate)
            ),
            # A grading that broke left a note, which is newer than its eval.json.
            broken=lambda wc, s=setting: BROKEN_EVALS.get(run_of(wc, s).dashed, []),
        output:
            RESULTS.runs / f"{{model}}-{setting.name}{{repeat}}" / setting.mode / PAIR / layout.EVAL,
        log:
            f"logs/evals/{{model}}-{setting.name}{{repeat}}/{PAIR}.log",
        priority: 100
        threads: 0
        resources:
            eval_slots=1,
            attempt=lambda wc, attempt: attempt,
        params:
            python=sys.executable,
            script=SCRIPTS / "eval.py",
            setting=setting.name,
            retries=retries,
        shell:
            "{params.python:q} {params.script:q}"
            " --run-name {wildcards.model:q}-{params.setting:q}{wildcards.repeat}"
            " --repo {wildcards.repo:q} --task {wildcards.task} --features {wildcards.a},{wildcards.b}"
            " --try {resources.attempt} --retries {params.retries} --log {log:q}"
