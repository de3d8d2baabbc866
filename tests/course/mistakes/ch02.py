"""Wrong answers to the exercises of chapter 2."""


def autoencoder_loss__mean_for_sum(x, encode, decode):
    error = (x - decode(encode(x))).reshape(len(x), -1)
    return (error**2).mean(axis=1)


def autoencoder_loss__one_number_for_all(x, encode, decode):
    return ((x - decode(encode(x))) ** 2).sum()


def denoising_loss__reproduces_the_noise(x, corrupted, encode, decode):
    error = (corrupted - decode(encode(corrupted))).reshape(len(x), -1)
    return (error**2).sum(axis=1)


def denoising_loss__sees_the_clean_image(x, corrupted, encode, decode):
    error = (x - decode(encode(x))).reshape(len(x), -1)
    return (error**2).sum(axis=1)


def pca_reconstruct__mean_within_the_subspace(z, mean, components):
    return (z + components @ mean) @ components


def pca_reconstruct__no_mean(z, mean, components):
    return z @ components
