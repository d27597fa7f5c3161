"""The plots: their data, Vega-Lite specifications, and image files."""
