"""The tables of the results, and their statistics."""
