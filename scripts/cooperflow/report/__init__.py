"""The HTML report: a folder of static pages that open from disk and load no other resource."""
