"""The workflow on a real Slurm cluster, with the faults that a cluster has."""
