"""Facts about cooperbench: its files, releases and published results. tests/contract pins them."""
