"""From a source's rows to shards: splits, plan, workers, records, and the finished data set."""
