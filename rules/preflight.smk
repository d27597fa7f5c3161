# Checks all prerequisites of paid runs; a provider is called at most every ten minutes.
rule preflight:
    log:
        "logs/preflight.log",
    params:
        call=call("preflight"),
    shell:
        "{params.call} --log {log:q}"
