"""Figures of a trained model: reconstruction, likelihood, distances of samples, retrieval."""
