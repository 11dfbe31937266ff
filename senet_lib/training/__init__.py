"""Train one network on one data set with one recipe; the same seed gives the same weights.

loop.py          `fit`, `train_epoch`, `train_step`, `evaluate`
state.py         what a training consists of, how far it is, and how a checkpoint stores it
outcome.py       what training and evaluation return
schedule.py      the learning rate of a step
distributed.py   several devices share every batch; device_process.py is one of their processes
batch_norm.py    batch norm over the images of all devices
runtime.py       device, precision, memory format, kernels, compilation, memory
checkpoint.py    checkpoints, written beside training, that survive a kill and detect corruption
stopping.py      SIGTERM and SIGINT
progress.py      a progress bar, or one line per epoch
optimizer.py, averaging.py, whitening.py, resizing.py, tta.py    parts of a recipe, each with its source
"""

from senet_lib.training.loop import NonFiniteLoss, evaluate, fit
from senet_lib.training.outcome import Evaluation, Outcome
from senet_lib.training.stopping import TrainingStopped

__all__ = ["Evaluation", "NonFiniteLoss", "Outcome", "TrainingStopped", "evaluate", "fit"]
