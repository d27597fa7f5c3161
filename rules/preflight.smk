# Everything a paid run needs, tried before one starts. The key is asked once per ten minutes.
rule preflight:
    log:
        "logs/preflight.log",
    params:
        call=call("preflight"),
    shell:
        "{params.call} --log {log:q}"
