"""From the documents of the runs to every table, and the statistics in them."""
