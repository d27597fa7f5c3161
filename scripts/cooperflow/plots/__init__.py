"""The plots: what they show, and its two forms, for a paper and for a page."""
