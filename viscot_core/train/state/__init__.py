"""What a run keeps on disk and starts from: the run folder, first weights, checkpoints, saved models."""
