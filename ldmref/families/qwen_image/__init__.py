"""Qwen-Image: so far its autoencoder, which other families share."""
