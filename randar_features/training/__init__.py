"""Training of tokenizers and generators: resumable at any step."""
