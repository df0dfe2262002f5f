"""Readers of data sets as they are downloaded: one file per source."""
