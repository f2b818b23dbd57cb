"""One stage: its rows, what trains at which rate, the Trainer, its log."""
