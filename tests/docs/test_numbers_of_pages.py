"""Numbers that pages state in passing, read from the page and computed again here."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import integrate, special

from ldmref import math as lm
from ldmref.models import preset
from ldmref.modes.validation import MAX_COUNT, MAX_SIDE
from ldmref.samplers import GUIDANCES, SchedulerConfig, sigma_grid
from ldmref.samplers.schedule import sampling_sigmas

TABLE = sampling_sigmas(SchedulerConfig())  # of Stable Diffusion
ALPHA_BAR = lm.alphas_cumprod(lm.scaled_linear_betas(1000, 0.00085, 0.012))
PIXELS = 3 * 512 * 512
LATENTS = 4 * 64 * 64


def timesteps(spacing):
    """The training timesteps of four steps of a spacing, as the page lists them."""
    sigmas = sigma_grid(TABLE, spacing, 4)[:-1]
    return ", ".join(str(int(np.argmin(np.abs(TABLE - s)))) for s in sigmas)


def largest_error(function):
    x = np.linspace(-8, 8, 400_001)
    return float(np.abs(function(x) - x * special.ndtr(x)).max())


def variance_of(first, second, at):
    """Posterior variance of x_s given x_t = `at`, for data of two densities, by quadrature."""
    alpha = second / first

    def weights(x):
        law = 0.5 * sum(math.exp(-((x - m) ** 2) / (2 * (1 - first))) for m in TWO(first))
        return law * math.exp(-((at - math.sqrt(alpha) * x) ** 2) / (2 * (1 - alpha)))

    moments = [integrate.quad(lambda x, k=k: x**k * weights(x), -12, 12)[0] for k in range(3)]
    mean = moments[1] / moments[0]
    return moments[2] / moments[0] - mean**2


def TWO(alpha_bar):
    return math.sqrt(alpha_bar), -math.sqrt(alpha_bar)


def of_normal(first, second, data):
    alpha = second / first
    at_s, at_t = first * data + 1 - first, second * data + 1 - second
    return at_s - alpha * at_s**2 / at_t


def chain():
    """The largest difference of DDPM's alpha-bar from e^-B, and the relative one at the end."""
    beta = np.linspace(1e-4, 0.02, 1000)
    discrete = np.cumprod(1 - beta)
    t = (np.arange(1000) + 1) / 1000
    continuous = np.exp(-(0.1 * t + 0.5 * (20 - 0.1) * t * t))
    gap = np.abs(discrete - continuous)
    return f"{gap.max():.4f}", f"{100 * gap[-1] / continuous[-1]:.0f}"


def angle_to_flow_time(angle):
    return math.sin(angle) / (math.sin(angle) + math.cos(angle))


def before_zero():
    sigmas = sigma_grid(TABLE, "linspace", 8)
    return f"{sigmas[6]:.2f}", f"{sigmas[7]:.3f}"


CLAIMS = [  # page, pattern with the numbers as groups, what they are
    ("course/01-why-distributions.md", r"in ([\d,]+) dimensions", [f"{PIXELS:,}"]),
    ("course/01-why-distributions.md", r"is enough. With ([\d,]+)", [f"{PIXELS:,}"]),
    ("course/02-compressing-images.md", r"pixels has ([\d,]+) numbers. .* generates ([\d,]+) num",
     [f"{PIXELS:,}", f"{LATENTS:,}"]),
    ("course/02-compressing-images.md", r"32 x 32 pixels: ([\d,]+) numbers", [f"{3 * 32 * 32:,}"]),
    ("course/03-the-vae.md", r"([\d,]+) entries of Stable Diffusion's latent, .* ([\d,]+)\s+zeros",
     [f"{LATENTS:,}"] * 2),
    ("course/04-first-stages.md", r"\| 2 \| 4 \| ([\d,]+) \|", [f"{4 * 16**2:,}"]),
    ("course/04-first-stages.md", r"\| 8 \| 4 \| ([\d,]+) \|", [f"{4 * 4**2:,}"]),
    ("course/04-first-stages.md", r"an image of ([\d,]+) numbers", [f"{3 * 32 * 32:,}"]),
    ("course/04-first-stages.md", r"channels, (\d+) times fewer numbers. Convolution becomes (\d+) "
     r"times cheaper and attention over all positions up to ([\d,]+)",
     [str(PIXELS // LATENTS), str(8**2), f"{8**4:,}"]),
    ("course/05-destroying-data.md", r"Diffusion it is ([\d.]+). An amplitude",
     [f"{ALPHA_BAR[-1]:.4f}"]),
    ("course/05-destroying-data.md", r"\\sqrt\{\\bar\\alpha_T\} = ([\d.]+)",
     [f"{math.sqrt(ALPHA_BAR[-1]):.3f}"]),
    ("course/06-undoing-it.md", r"latents of ([\d,]+) entries this is .* over (\d+) million",
     [f"{LATENTS:,}", f"{1000 * LATENTS / 1e6:.0f}"]),
    ("course/07-the-network.md", r"Diffusion\) \| ([\d,]+) \| ([\d.]+) million \| (\d+) MB",
     [f"{64**2:,}", f"{64**4 / 1e6:.1f}", f"{4 * 64**4 / 1e6:.0f}"]),
    ("course/07-the-network.md", r"512 pixels \| ([\d,]+) \| ([\d.]+) billion \| (\d+) GB",
     [f"{512**2:,}", f"{512**4 / 1e9:.1f}", f"{4 * 512**4 / 1e9:.0f}"]),
    ("course/07-the-network.md", r"attention ([\d,]+) times as much", [f"{8**4:,}"]),
    ("course/07-the-network.md", r"vocabulary has ([\d,]+) pieces of .* length is (\d+)",
     [f"{preset('sd15').text_encoder.vocab_size:,}", "77"]),
    ("course/11-editing.md", r"50 \\cdot 0.58\S+ is ([\d.]+)", [repr(50 * 0.58)]),
    ("math/flow_maps.md", r"at the angles ([\d.]+) and 1.3, and 1.3 is\s+the flow time ([\d.]+\d)",
     [f"{math.pi / 2:.4f}", f"{angle_to_flow_time(1.3):.3f}"]),
    ("math/layers.md", r"at most \$`([\d.]+) \\cdot 10\^\{-4\}`\$ \(`gelu_tanh`\) and \$`([\d.]+)`",
     [
         f"{math.ceil(1e5 * largest_error(lm.gelu_tanh)) / 10:.1f}",
         f"{math.ceil(1e4 * largest_error(lm.quick_gelu)) / 1e4:.4f}",
     ]),
    ("math/objective.md", r"two points .* give\s+([\d.]+) at .*?4\)`\$ gives ([\d.]+) every",
     [f"{variance_of(0.5, 0.4, 0.0):.3f}", f"{of_normal(0.5, 0.4, 4.0):.3f}"]),
    ("math/samplers.md", r"of 8 steps goes from \$`\\sigma`\$ = ([\d.]+) to ([\d.]+) after",
     [*before_zero()]),
    ("math/schedules.md", r"smallest \$`\\sigma`\$ is\s+([\d.]+\d);", [f"{TABLE[0]:.7f}"]),
    ("math/score.md", r"differs from \$`e\^\{-B\}`\$ by up to ([\d.]+);.*?difference is (\d+) %",
     [*chain()]),
    ("math/score.md", r"\\delta = 0.2`\$ is ([\d.]+)\s+instead", [f"{1 / (1 - 0.2 / 2):.2f}"]),
    ("math/guidance.md", r"`ratio` ([\d.]+)", [f"{GUIDANCES['threshold']().ratio:g}"]),
    ("math/guidance.md", r"`low` ([\d.]+), `high` ([\d.]+)",
     [f"{GUIDANCES['interval']().low:g}", f"{GUIDANCES['interval']().high:g}"]),
    ("modes.md", r"\| LCM \|.*\| ([\d, ]+) \|", [timesteps("lcm")]),
    ("modes.md", r"\| DMD2 \|.*\| ([\d, ]+) \|", [timesteps("trailing")]),
    ("modes.md", r"--sigmas ([\d.]+),0 --cfg 1` \| 399", [f"{TABLE[399]:.6f}"]),
    ("modes.md", r"timestep 399; ([\d.]+) is the noise level", [f"{TABLE[399]:.6f}"]),
    ("modes.md", r"at most ([\d,]+) pixels\s+a side", [f"{MAX_SIDE:,}"]),
    ("modes.md", r"a request has at most ([\d,]+) images", [f"{MAX_COUNT:,}"]),
    ("flow-schedules.md", r"of Stable Diffusion \(([\d.]+) to ([\d.]+)\)",
     [f"{TABLE[-1]:.2f}", f"{TABLE[0]:.2f}"]),
]  # fmt: skip


@pytest.mark.parametrize(("page", "pattern", "numbers"), CLAIMS, ids=lambda value: str(value)[:40])
def test_a_number_of_a_page_is_computed(page, pattern, numbers, pytestconfig):
    text = (pytestconfig.rootpath / "docs" / page).read_text("utf-8")
    found = re.search(pattern, text, re.DOTALL if "\\s+" in pattern or ".*?" in pattern else 0)
    assert found, f"{page} no longer says {pattern}"
    assert list(found.groups()) == numbers
