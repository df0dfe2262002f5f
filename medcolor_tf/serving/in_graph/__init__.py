"""data_prep's way from an image file to pixels in TensorFlow operations, for exported models."""
