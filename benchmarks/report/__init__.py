"""Results as pages, tables, pictures and files."""
