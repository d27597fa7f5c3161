# Checks every prerequisite of a paid run; the provider is called once per ten minutes.
rule preflight:
    log:
        "logs/preflight.log",
    params:
        call=call("preflight"),
    shell:
        "{params.call} --log {log:q}"
