"""One store on disk: sharded, checksummed, resumable, locked; it knows its images by their content."""
