"""Public data sets: from their own annotation files to a manifest's rows.

A module per data set offers `find_clips(annotations, root, *, split)`.
"""
