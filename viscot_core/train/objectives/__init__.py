"""What a stage learns: the loss of a batch, and the interface that every loss has."""
