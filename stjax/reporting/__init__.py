"""The report of trained and scored runs: one HTML file that needs nothing else. Its command is `stjax.report`.

read      what train, evaluate and predict wrote     compare    paired tests between runs
maps      sections, quantised to be small            fragments  a run's results in words, of pieces from `markup`
origins   a run's data, audit and provenance         page       the file, from these and `assets`
"""
