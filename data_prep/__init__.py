"""From raw slides and counts to a data set: read, filter, normalise, cut, write."""

from data_prep import startup

startup.watch()
