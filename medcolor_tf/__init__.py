"""Deep colorization: a small network T turns a gray image into the colours a backbone reads best.

Importing this package imports neither Keras nor TensorFlow; the sub-packages do when they need to.
"""

__version__ = "0.2.0"
