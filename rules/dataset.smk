# The data set: there, whole for the pairs asked for, its contents known by hash.
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
