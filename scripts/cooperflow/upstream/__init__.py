"""Facts about the documents that cooperbench writes. Pure; tests/contract pins them."""
