# Imports runs that plain cooperbench made, as listed in models.NAME.adopt.
rule adopt:
    log:
        "logs/adopt.log",
    params:
        call=call("adopt"),
    shell:
        "{params.call} --log {log:q}"
