"""The tasks' images: fetching, verification, pinning and removal."""
