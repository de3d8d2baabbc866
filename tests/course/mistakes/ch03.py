"""Wrong answers to the exercises of chapter 3."""

import numpy as np


def kl_standard_normal__sign_of_logvar(mean, logvar):
    return 0.5 * (mean**2 + np.exp(logvar) - 1.0 + logvar)


def kl_standard_normal__logvar_is_log_std(mean, logvar):
    return 0.5 * (mean**2 + np.exp(2.0 * logvar) - 1.0 - 2.0 * logvar)


def kl_standard_normal__naive(mean, logvar):
    return 0.5 * (mean**2 + np.exp(logvar) - 1.0 - logvar)


def reparameterize__variance_for_std(mean, logvar, noise):
    return mean + np.exp(logvar) * noise


def elbo__log_ratio_for_divergence(log_likelihood, mean, logvar, kl_weight=1.0):
    log_ratio = -0.5 * logvar + 0.5 * mean**2
    if log_likelihood.ndim > 1:
        log_likelihood = log_likelihood.mean(axis=0)
    return log_likelihood - kl_weight * log_ratio.reshape(len(mean), -1).sum(axis=1)


def elbo__mean_over_entries(log_likelihood, mean, logvar, kl_weight=1.0):
    if log_likelihood.ndim > 1:
        log_likelihood = log_likelihood.mean(axis=0)
    divergence = 0.5 * (mean**2 + np.exp(logvar) - 1.0 - logvar)
    return log_likelihood - kl_weight * divergence.reshape(len(mean), -1).mean(axis=1)


def averaged(log_likelihood):
    return log_likelihood.mean(axis=0) if log_likelihood.ndim > 1 else log_likelihood


def elbo__sum_over_the_batch(log_likelihood, mean, logvar, kl_weight=1.0):
    divergence = 0.5 * (mean**2 + np.expm1(logvar) - logvar)
    return averaged(log_likelihood) - kl_weight * divergence.sum()


def elbo__no_mean_over_samples(log_likelihood, mean, logvar, kl_weight=1.0):
    divergence = 0.5 * (mean**2 + np.expm1(logvar) - logvar)
    return log_likelihood - kl_weight * divergence.reshape(len(mean), -1).sum(axis=1)


def elbo__naive(log_likelihood, mean, logvar, kl_weight=1.0):
    divergence = 0.5 * (mean**2 + np.exp(logvar) - 1.0 - logvar)
    entries = divergence.reshape(len(mean), -1)
    return averaged(log_likelihood) - kl_weight * entries.sum(axis=1)
