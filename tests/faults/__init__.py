"""What is left after a broker process was killed."""
