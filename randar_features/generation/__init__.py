"""Generation: parallel decoding, editing, twice the resolution, likelihoods."""
