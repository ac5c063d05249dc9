"""Steps that XLA's CPU backend runs slowly, written for it. On GPU and TPU each is XLA's own: a program holds both, and
is compiled for one. `stjax bench --what=cpu_ops` times each against XLA's own; what gains less than a fifth goes.
"""
