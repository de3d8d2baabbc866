"""Fuzzing of everything that reads what strangers wrote; README.md says how to run it."""
