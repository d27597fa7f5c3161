"""The report: a folder of static pages that opens from disk and loads nothing else."""
