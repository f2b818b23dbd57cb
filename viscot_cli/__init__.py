"""The command line: parse, call one core function, render. No logic, nothing heavy at import."""
