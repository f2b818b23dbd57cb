"""Figures while a stage trains: the loss of held-out rows, answers and boxes of a benchmark."""
