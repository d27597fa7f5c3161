# Everything a paid run needs, tried before one starts. The key is asked once per ten minutes.
rule preflight:
    log:
        "logs/preflight.log",
    params:
        python=sys.executable,
        script=SCRIPTS / "preflight.py",
    shell:
        "{params.python:q} {params.script:q} --log {log:q}"
