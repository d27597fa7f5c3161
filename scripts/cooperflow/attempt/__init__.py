"""One call of the cooperbench command: its child process, services, supervision and evidence."""
