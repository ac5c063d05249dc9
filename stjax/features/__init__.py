"""Features: vectors of every record of a data set from an encoder, kept beside it in features/<name>/."""
