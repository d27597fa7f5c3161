"""Download one revision of the data set; a process of its own, so that it can be ended at any time.

Called as `python -m cooperflow.experiment.dataset_download REPOSITORY REVISION FOLDER`.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    from huggingface_hub import snapshot_download

    repository, revision, folder = sys.argv[1:]
    try:
        snapshot_download(
            repo_id=repository,
            repo_type="dataset",
            revision=revision,
            local_dir=folder,
            token=os.environ.get("HF_TOKEN"),
        )
    except Exception as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
