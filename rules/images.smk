# One sentinel per verified image, and one file that says that all are.
IMAGE_PAIRS = {layout.image_key(pair.image): pair for pair in PLAN.pairs}


rule image:
    input:
        lambda wc: mend(RESULTS.root / "images" / f"{wc.image}.json"),
    output:
        RESULTS.root / "images" / "{image}.json",
    log:
        "logs/images/{image}.log",
    wildcard_constraints:
        image=either(IMAGE_PAIRS),
    resources:
        run_slots=1,
    params:
        python=sys.executable,
        script=SCRIPTS / "image.py",
        repo=lambda wc: IMAGE_PAIRS[wc.image].repo,
        task=lambda wc: IMAGE_PAIRS[wc.image].task_id,
    shell:
        "{params.python:q} {params.script:q} --repo {params.repo:q} --task {params.task} --log {log:q}"


rule images_verified:
    input:
        [RESULTS.sentinel(image) for image in PLAN.images],
        lambda _: mend(RESULTS.gate),
    output:
        RESULTS.gate,
    run:
        from cooperflow import images

        images.gate(PLAN)


rule images:
    input:
        RESULTS.gate,
