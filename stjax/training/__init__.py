"""What a training run is made of: jobs, steps, optimisers, checkpoints, faults, folds together."""
