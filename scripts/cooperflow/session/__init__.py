"""A session's start (preflight, estimate, printed plan), and its progress as read from files."""
