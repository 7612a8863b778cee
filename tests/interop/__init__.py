"""Clients written by others, against a real broker process."""
