"""What is claimed about speed: ``make bench`` and ``make bench-quick``."""
