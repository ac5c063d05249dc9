"""Features: vectors of every record of a data set from an encoder, kept with it in features/<name>/."""
