"""Training of tokenizers: vector quantisation, and codes of a frozen network."""
