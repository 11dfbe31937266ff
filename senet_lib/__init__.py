"""ResNet, SENet and SKNet compared on CIFAR-10-sized images: networks, training, results and statistics."""

import os

__version__ = "0.1.0"

# OpenMP threads that spin while waiting slow down all processes, including their own, when cores are shared.
# OpenMP reads this when torch is imported, so senet_lib must be imported first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
