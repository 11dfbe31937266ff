"""The gates of trained networks: recorded for each image, measured, plotted and described.

- `record.py`: a published run's network; its SE gates and SK weights for each image.
- `images.py`: images with an enlarged centre, and a control with the same loss of resolution but no enlargement.
- `grad_cam.py`: the image regions that a class score depends on.
- `measures.py`, `figures.py`, `sentences.py`: arrays in; numbers, figures and sentences out. No torch.
"""
