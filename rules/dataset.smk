# The data set: fetched if missing, complete for the selected pairs, hashes recorded. Runs do not
# depend on it: the preflight of each session checks the tasks that the runs need.
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
