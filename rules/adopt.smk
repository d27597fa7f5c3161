# Imports runs made by plain cooperbench, as listed in models.NAME.adopt. The next invocation has
# them in its plan, because the plan is made before the first job.
rule adopt:
    log:
        "logs/adopt.log",
    params:
        call=call("adopt"),
    shell:
        "{params.call} --log {log:q}"
