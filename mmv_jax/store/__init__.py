"""Studies as blocks on disk: written by ingest, read by box."""
