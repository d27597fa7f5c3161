# Everything a paid run needs, tried before one starts. The key is asked once per ten minutes.
rule preflight:
    log:
        "logs/preflight.log",
    params:
        call=call("preflight"),
    shell:
        "{params.call} --log {log:q}"


# It lists the problems once.
snakemake_setup.try_once(workflow, "preflight")
