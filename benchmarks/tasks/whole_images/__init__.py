"""Tasks with one feature for a whole image."""
