"""Turns a data set as it was downloaded into shards that medcolor_tf trains on.

Commands: ``python -m data_prep.build``, ``python -m data_prep.verify``, ``python -m
data_prep.phantom``. Only building and checking shards imports TensorFlow.
"""
