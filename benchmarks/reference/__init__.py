"""The published model restated plainly, to compare speed and numbers with."""
