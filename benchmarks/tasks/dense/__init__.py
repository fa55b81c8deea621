"""Tasks with a feature for each location of an image."""
