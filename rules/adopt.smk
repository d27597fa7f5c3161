# Runs that plain cooperbench made, taken over: what models.NAME.adopt names.
rule adopt:
    log:
        "logs/adopt.log",
    params:
        call=call("adopt"),
    shell:
        "{params.call} --log {log:q}"
