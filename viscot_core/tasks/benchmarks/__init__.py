"""Benchmarks of visual search and fine detail: one reader a file format, one task that asks any of them."""
