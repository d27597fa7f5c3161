"""The fault campaign: real faults, caused on real processes, containers and files."""
