"""One supervised call of cooperbench: its child process, services, limits and evidence."""
