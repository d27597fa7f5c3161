# Evaluates the gold patches of each pair like a run's patches, without a model or cost.
ORACLE = [
    RESULTS.oracle_repeat(pair, number)
    for pair in PLAN.pairs
    for number in range(1, PLAN.config.oracle.repeats + 1)
]


rule oracle_pair:
    input:
        inputs_of_oracle,
    output:
        RESULTS.root / "oracle" / PAIR / "repeat-{repeat}.json",
    log:
        f"logs/oracle/{PAIR}-{{repeat}}.log",
    wildcard_constraints:
        repeat=r"[1-9]\d*",
    priority: PLAN.evaluation_priority
    threads: 0
    resources:
        eval_slots=1,
        try_number=try_number,
    params:
        call=call("oracle"),
    shell:
        "{params.call} --run oracle/{wildcards.pair:q}/{wildcards.repeat}"
        " --try {resources.try_number} --log {log:q}"


rule oracle_table:
    input:
        ORACLE,
    output:
        RESULTS.oracle_csv,
    log:
        "logs/oracle.log",
    params:
        call=call("oracle_table"),
    shell:
        "{params.call} --log {log:q}"


rule oracle:
    # Includes the documents, because Snakemake ignores a missing one if the table exists.
    input:
        ORACLE,
        RESULTS.oracle_csv,
