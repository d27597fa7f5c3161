"""Provide and verify the image of one task, or save it as a tar file."""

import contextlib
import sys

from cooperflow import formats, layout, processes
from cooperflow.errors import UserError
from cooperflow.experiment.plan import Plan
from cooperflow.images import verification
from cooperflow.jobs import entry_points


def main() -> int:
    parser = entry_points.parser(__doc__)
    parser.add_argument("--image", required=True, help="the name of the image's sentinel")
    parser.add_argument("--save", action="store_true", help="write its tar file to images.archive")
    arguments = parser.parse_args()

    def work(plan: Plan) -> None:
        images = {layout.image_key(image): image for image in plan.images}
        if arguments.image not in images:
            raise UserError(f"The config has no image {arguments.image}.")
        image = images[arguments.image]
        if arguments.save:
            size = verification.save(plan, image)
            print(f"{verification.archive_path(plan, image)}: {formats.size(size)}")
            return
        # pull_slots limits the pulls of one machine, or those of all nodes of a cluster together.
        with contextlib.ExitStack() as stack:
            if processes.on_a_node():
                stack.enter_context(verification.claim_fetch(plan))
            sentinel = verification.write_sentinel(plan, image)
        print(f"{image}: {sentinel['source']} and verified")

    return entry_points.work_on_plan(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
