"""What a training run is made of: jobs, steps, optimisers, faults, folds together."""
