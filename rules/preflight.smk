# Everything a paid run needs, tried before one starts. The key is asked once per ten minutes.
rule preflight:
    log:
        "logs/preflight.log",
    params:
        call=call("preflight"),
    shell:
        "{params.call} --log {log:q}"


# What is to be mended is told once. (The keyword `retries: 0` is taken for one that is not set.)
workflow.get_rule("preflight").restart_times = 0
