"""Training: a recipe becomes a plan, the plan a job, the job's worker runs the loop of each stage."""
