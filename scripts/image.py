"""See to the image of one task and verify it."""

import contextlib
import sys

from cooperflow import layout, processes
from cooperflow.errors import UserError
from cooperflow.experiment import config, plan
from cooperflow.images import local_image, verification
from cooperflow.jobs import command


def main() -> int:
    parser = command.parser(__doc__)
    parser.add_argument("--image", required=True, help="the name of the image's sentinel")
    parser.add_argument("--save", action="store_true", help="write its tar to images.archive")
    arguments = parser.parse_args()

    def work() -> int:
        made = plan.make(config.from_environment())
        images = {layout.image_key(image): image for image in made.images}
        if arguments.image not in images:
            raise UserError(f"The config has no image {arguments.image}.")
        image = images[arguments.image]
        if arguments.save:
            size = verification.save(made, image)
            print(f"{verification.archive_path(made, image)}: {size / 1e6:.1f} MB")
            return 0
        # On one machine pull_slots says how many; on a cluster, of all nodes together.
        with contextlib.ExitStack() as stack:
            if processes.on_a_node():
                stack.enter_context(local_image.one_at_a_time(made))
            sentinel = verification.ensure(made, image)
        print(f"{image}: {sentinel['source']} and verified")
        return 0

    return command.perform(work, arguments.log)


if __name__ == "__main__":
    sys.exit(main())
