"""Answers to the exercises of chapter 8, guidance."""


def classifier_free_guidance(uncond, cond, scale):
    """Extrapolate from the unconditional prediction; 1 is the conditional one."""
    return uncond + scale * (cond - uncond)


def classifier_guidance_mean(mean, variance, grad_log_p_y, scale=1.0):
    """Complete the square: the mean moves by the variance times the gradient."""
    return mean + scale * variance * grad_log_p_y


def rescale_guidance(guided, cond, phi):
    """Give each example the standard deviation of its conditional prediction, by the share phi."""
    axes = tuple(range(1, guided.ndim))
    ratio = cond.std(axis=axes, keepdims=True) / guided.std(axis=axes, keepdims=True)
    return phi * ratio * guided + (1.0 - phi) * guided
