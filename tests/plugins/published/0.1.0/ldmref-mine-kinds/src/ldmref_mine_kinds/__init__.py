"""The text encoder and the autoencoder of docs/add-a-family.md."""
