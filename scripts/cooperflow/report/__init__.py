"""The report: a folder of pages that opens from disk. Nothing in a page can act."""
