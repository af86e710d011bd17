"""What is said of a head on given videos, and of two heads on the same."""
