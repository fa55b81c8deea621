"""Losses beside next-token prediction, off by default; `losses.py` joins them."""
