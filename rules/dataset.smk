# The data set: fetched if missing, complete for the selected pairs, hashes recorded.
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
