"""The reference implementation: its result files read, its tables printed digit for digit."""
