# Imports runs that plain cooperbench made, as listed in models.NAME.adopt. The next invocation has
# them in its plan, which is made before the first job.
rule adopt:
    log:
        "logs/adopt.log",
    params:
        call=call("adopt"),
    shell:
        "{params.call} --log {log:q}"
