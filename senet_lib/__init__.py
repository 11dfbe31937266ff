"""ResNet against SENet against SKNet on CIFAR-10-sized images: networks, training, results and their statistics."""

import os

__version__ = "0.1.0"

# Threads that spin while they wait slow everything down, themselves too, as soon as another process wants a core.
# OpenMP reads this when torch is imported, so it takes effect where senet_lib is imported first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
