# Verifies images: one sentinel per image, and the gate for all images.
IMAGES = [layout.image_key(image) for image in PLAN.images]


rule image:
    input:
        inputs_of_image,
    output:
        RESULTS.root / "images" / "{image}.json",
    log:
        "logs/images/{image}.log",
    wildcard_constraints:
        image=either(IMAGES),
    # No core, because the job mostly waits for the network or, in rolling mode, for disk space.
    threads: 0
    resources:
        pull_slots=1,
    params:
        call=call("image"),
    shell:
        "{params.call} --image {wildcards.image:q} --log {log:q}"


rule images_verified:
    input:
        inputs_of_gate,
    output:
        RESULTS.gate,
    log:
        "logs/images/verified.log",
    params:
        call=call("images_verified"),
    shell:
        "{params.call} --log {log:q}"


rule images:
    input:
        verified_images,


rule image_archive:
    input:
        inputs_of_archive,
    output:
        Path(PLAN.config.images.archive or "archive") / "{image}.tar",
    log:
        "logs/images/{image}.tar.log",
    wildcard_constraints:
        image=either(IMAGES),
    threads: 0
    resources:
        pull_slots=1,
    params:
        call=call("image"),
    shell:
        "{params.call} --save --image {wildcards.image:q} --log {log:q}"


rule images_archive:
    input:
        archives,
