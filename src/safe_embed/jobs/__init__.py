"""Whole files embedded into files, with progress, and resumed after a kill: ``safe-embed encode``.

An input of any size is read a row at a time. Every some hundred rows their vectors become a part: a
file of its own, written beside the output, which is renamed into its place when it is whole. A run
that is killed goes on behind the last part. In the end all parts are copied into the output.
"""
