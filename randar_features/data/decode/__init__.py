"""One picture: opened safely, decoded, in its range of values, and cut to a square of pixels."""
