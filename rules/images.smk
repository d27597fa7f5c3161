# One sentinel per verified image, and one file that says that all are.
IMAGE_PAIRS = {layout.image_key(image): pair for image, pair in PLAN.image_pairs.items()}


rule image:
    input:
        inputs_of_image,
    output:
        RESULTS.root / "images" / "{image}.json",
    log:
        "logs/images/{image}.log",
    wildcard_constraints:
        image=either(IMAGE_PAIRS),
    # No thread of its own: it waits for the network, in rolling mode for room.
    threads: 0
    resources:
        pull_slots=1,
    params:
        call=call("image"),
        repo=lambda wc: IMAGE_PAIRS[wc.image].repo,
        task=lambda wc: IMAGE_PAIRS[wc.image].task_id,
        server=lambda wc: with_server(wc.image),
    shell:
        "{params.call} --repo {params.repo:q} --task {params.task} {params.server} --log {log:q}"


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
        lambda _: verified_images(),


rule image_archive:
    input:
        inputs_of_archive,
    output:
        Path(PLAN.config.images.archive or "archive") / "{image}.tar",
    log:
        "logs/images/{image}.tar.log",
    wildcard_constraints:
        image=either(IMAGE_PAIRS),
    threads: 0
    resources:
        pull_slots=1,
    params:
        call=call("image"),
        repo=lambda wc: IMAGE_PAIRS[wc.image].repo,
        task=lambda wc: IMAGE_PAIRS[wc.image].task_id,
        server=lambda wc: with_server(wc.image),
    shell:
        "{params.call} --save --repo {params.repo:q} --task {params.task} {params.server}"
        " --log {log:q}"


rule images_archive:
    input:
        lambda _: [archive_of(image) for image in PLAN.images],
