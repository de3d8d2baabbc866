"""Piece 3 of the capstone in PyTorch: Algorithm 1 and its loop of gradient steps."""

import torch


def per_example(value, x):
    """Return numbers of shape (n,) in a shape that multiplies the examples of x."""
    value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def q_sample(x0, alpha_bar, eps):
    """Return x_t: the data scaled, plus noise."""
    a = per_example(alpha_bar, x0)
    return torch.sqrt(a) * x0 + torch.sqrt(1.0 - a) * eps


def training_pair(x0, alpha_bar, eps, prediction_type="eps"):
    """Return x_t and what the network should predict from it."""
    a = per_example(alpha_bar, x0)
    v = torch.sqrt(a) * eps - torch.sqrt(1.0 - a) * x0
    return q_sample(x0, alpha_bar, eps), {"eps": eps, "x0": x0, "v": v}[prediction_type]


def training_loss(predict, x0, t, eps, alphas_cumprod, prediction_type="eps"):
    """Return the mean squared error of each example at its own timestep, (n,)."""
    xt, target = training_pair(x0, alphas_cumprod[t], eps, prediction_type)
    return ((target - predict(xt, t)) ** 2).flatten(1).mean(dim=1)


def train(draw, features, alpha_bar, steps, rng, batch=256, rate=0.02):
    """Train a linear layer that predicts noise from features, with Adam.

    Args:
        draw: Returns data, `draw(n)`, (n, d).
        features: The inputs of the layer, `features(xt, t)`, (n, k).
        alpha_bar: The schedule, (T,).
        steps: Number of gradient steps.
        rng: Source of timesteps and noise, a `torch.Generator`.
        batch: Examples in a step.
        rate: Learning rate of the first step; it falls to 0.

    Returns:
        The weights, (k, d), and the mean loss of each step.
    """
    data = draw(1)
    inputs = features(data, torch.zeros(1, dtype=torch.long))
    weights = torch.zeros(inputs.shape[1], data.shape[1], dtype=data.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=rate, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        x0 = draw(batch)
        t = torch.randint(len(alpha_bar), (batch,), generator=rng)
        eps = torch.randn(x0.shape, dtype=x0.dtype, generator=rng)
        loss = training_loss(lambda xt, t: features(xt, t) @ weights, x0, t, eps, alpha_bar).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        losses.append(loss.item())
    return weights.detach(), torch.tensor(losses)
