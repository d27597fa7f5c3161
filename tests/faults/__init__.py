"""The fault campaign: injects real faults into processes, containers, files and the provider."""
