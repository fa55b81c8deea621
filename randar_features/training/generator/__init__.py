"""Training of generators: next-token prediction in random orders, with auxiliary losses."""
