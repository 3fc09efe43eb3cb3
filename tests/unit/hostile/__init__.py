"""Damaged, truncated, foreign and malicious files, and what a reader makes of them."""
