"""What exists only for the bundled tiny model: random weights, the foundation stage, auxiliary losses."""
