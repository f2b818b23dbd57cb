"""Small drawn benchmarks, for tests and first steps."""
