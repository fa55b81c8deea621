"""One store on disk: sharded, checksummed, resumable, locked; it identifies images by their content."""
