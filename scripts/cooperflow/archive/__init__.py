"""Sharing of results: provenance, bundles, recordings, exports, and adoption of other runs."""
