"""What a model runs on: devices, replicas, several processes, precision and seeds."""
