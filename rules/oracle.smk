# The gold patches of each pair, graded as a run's patches are: no model, no cost.
ORACLE = [
    RESULTS.oracle_repeat(pair, number)
    for pair in PLAN.pairs
    for number in range(1, PLAN.config.oracle.repeats + 1)
]


rule oracle_pair:
    input:
        image=lambda wc: ancient(RESULTS.sentinel(layout.image_name(wc.repo, int(wc.task)))),
        # A grading that broke left a note, which is newer than its document.
        broken=lambda wc: BROKEN_EVALS.get(
            f"oracle--{wc.repo}--{wc.task}--f{wc.a}_f{wc.b}--{wc.repeat}", []
        ),
    output:
        RESULTS.root / "oracle" / PAIR / "repeat-{repeat}.json",
    log:
        f"logs/oracle/{PAIR}-{{repeat}}.log",
    wildcard_constraints:
        repeat=r"[1-9]\d*",
    priority: 100
    threads: 0
    resources:
        eval_slots=1,
        attempt=lambda wc, attempt: attempt,
    params:
        python=sys.executable,
        script=SCRIPTS / "oracle.py",
        retries=retries,
    shell:
        "{params.python:q} {params.script:q} --run-name repeat-{wildcards.repeat}"
        " --repo {wildcards.repo:q} --task {wildcards.task}"
        " --features {wildcards.a},{wildcards.b}"
        " --try {resources.attempt} --retries {params.retries} --log {log:q}"


rule oracle_table:
    input:
        ORACLE,
    output:
        RESULTS.oracle_csv,
    log:
        "logs/oracle.log",
    params:
        python=sys.executable,
        script=SCRIPTS / "oracle_table.py",
    shell:
        "{params.python:q} {params.script:q} --log {log:q}"


rule oracle:
    # The documents too: one that is missing below a table that is there would not be missed.
    input:
        ORACLE,
        RESULTS.oracle_csv,
