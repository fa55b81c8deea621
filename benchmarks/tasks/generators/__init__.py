"""Tasks that measure generators and tokenizers by what they draw and predict."""
