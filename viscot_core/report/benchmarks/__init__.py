"""What stands beside the scores of a benchmark: the run card, chance, published figures, another run."""
