"""The tasks' images: fetching, verification, pinned digests and removal."""
