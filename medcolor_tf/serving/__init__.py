"""Trained runs on the images as the user has them."""
