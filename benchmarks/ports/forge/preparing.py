"""What the scripts of Forge share: its folders, and its options on a machine without a GPU."""

import sys

sys.path += [f"{folder}/packages_3rdparty" for folder in sys.path]
sys.argv += ["--always-cpu", "--attention-pytorch"]
