"""Provenance, bundles, recordings, exports and adopted runs."""
