"""Write tests/modes/golden_noise.npy: the first two numbers of the streams of seeds 0 and 12345.

The file was written with NumPy 2.4.6. The test compares later versions with it: if NumPy changes
its ziggurat algorithm, images change and the test fails.
"""

from pathlib import Path

import numpy as np

streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in (0, 12345)]
draws = np.stack([stream.standard_normal(2, np.float32) for stream in streams])
np.save(Path(__file__).parent.parent / "tests" / "modes" / "golden_noise.npy", draws)
