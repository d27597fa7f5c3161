"""What a run was: its calls and evidence judged, and the documents that say so."""
