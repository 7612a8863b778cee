"""Tests, in the order of the floors; `support` holds what they share."""
