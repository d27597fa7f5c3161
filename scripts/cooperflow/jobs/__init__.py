"""What Snakemake starts: the jobs, the warm launcher they fork from, the pause after failures."""
