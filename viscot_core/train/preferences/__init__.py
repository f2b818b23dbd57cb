"""Pairs of which one is preferred: made from several looks at each item, read as rows to learn from."""
