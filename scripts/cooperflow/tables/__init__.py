"""The tables of the results, and the statistics in them."""
