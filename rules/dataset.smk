# Fetches the data set if it is missing, checks it for the selected pairs, and records hashes. Runs
# do not depend on this rule: each session's preflight checks the tasks that the runs need.
rule dataset_checked:
    output:
        RESULTS.dataset_json,
    log:
        "logs/dataset.log",
    params:
        call=call("dataset_checked"),
    shell:
        "{params.call} --log {log:q}"


rule dataset:
    input:
        RESULTS.dataset_json,
