"""Trained runs at work: on image files, on a data set's split, as an exported model."""
