"""Solutions of chapter 2: losses of autoencoders, and the decoder of principal components."""


def autoencoder_loss(x, encode, decode):
    """Return the sum over an example of (x - decode(encode(x)))^2."""
    error = (x - decode(encode(x))).reshape(len(x), -1)
    return (error**2).sum(axis=1)


def denoising_loss(x, corrupted, encode, decode):
    """Return the squared distance of the clean image and the output for the damaged one."""
    error = (x - decode(encode(corrupted))).reshape(len(x), -1)
    return (error**2).sum(axis=1)


def pca_reconstruct(z, mean, components):
    """Return mean + z V: the whole mean, not only its part within the subspace."""
    return mean + z @ components
