"""How a run is started: in this process, through torchrun, or as a SLURM job."""
