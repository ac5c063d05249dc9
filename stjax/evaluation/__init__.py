"""What metrics are made of: scoring, intervals, chance, the noise ceiling, conformal intervals, other protocols."""
