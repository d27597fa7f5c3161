"""For those who check: where the results come from, and one archive that holds it all."""
