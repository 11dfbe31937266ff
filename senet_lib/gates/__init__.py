"""The gates of trained networks: recorded for each image, measured, plotted and described.

- `record.py`: a published run's network; its SE gates and SK weights for each image.
- `images.py`: images with an enlarged centre, a control with the same loss of resolution but no enlargement, and a
  picture of the reader's own.
- `grad_cam.py`: the image regions that a class score depends on.
- `explore.py`: menus that draw one block's gates, for a live notebook.
- `measures.py`, `figures.py`, `sentences.py`: arrays in; numbers, figures and sentences out. No torch.
"""
