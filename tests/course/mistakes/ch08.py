"""Wrong answers to the exercises of chapter 8: `NAME__description` fails `ldmref check`."""

import numpy as np


def classifier_free_guidance__scale_of_the_paper(uncond, cond, scale):
    return (1 + scale) * cond - scale * uncond


def classifier_free_guidance__arguments_swapped(uncond, cond, scale):
    return cond + scale * (uncond - cond)


def classifier_free_guidance__off_below_one(uncond, cond, scale):
    return uncond + scale * (cond - uncond) if scale > 1 else cond


def classifier_guidance_mean__standard_deviation(mean, variance, grad_log_p_y, scale=1.0):
    return mean + scale * np.sqrt(variance) * grad_log_p_y


def classifier_guidance_mean__scale_squared(mean, variance, grad_log_p_y, scale=1.0):
    return mean + scale**2 * variance * grad_log_p_y


def classifier_guidance_mean__sign_of_eps(mean, variance, grad_log_p_y, scale=1.0):
    return mean - scale * variance * grad_log_p_y


def rescale_guidance__ratio_inverted(guided, cond, phi):
    axes = tuple(range(1, guided.ndim))
    ratio = guided.std(axis=axes, keepdims=True) / cond.std(axis=axes, keepdims=True)
    return phi * ratio * guided + (1 - phi) * guided


def rescale_guidance__over_the_batch(guided, cond, phi):
    return phi * cond.std() / guided.std() * guided + (1 - phi) * guided


def rescale_guidance__mixed_with_the_conditional(guided, cond, phi):
    axes = tuple(range(1, guided.ndim))
    ratio = cond.std(axis=axes, keepdims=True) / guided.std(axis=axes, keepdims=True)
    return phi * ratio * guided + (1 - phi) * cond


def rescale_guidance__one_axis(guided, cond, phi):
    ratio = cond.std(axis=1, keepdims=True) / guided.std(axis=1, keepdims=True)
    return phi * ratio * guided + (1 - phi) * guided
