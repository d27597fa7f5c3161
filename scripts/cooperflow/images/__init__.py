"""The tasks' images: found, brought, verified, pinned, removed."""
