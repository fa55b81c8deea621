"""Tasks that find pictures that are in the data twice."""
