"""The plots: data, Vega-Lite specifications, and files for a paper."""
