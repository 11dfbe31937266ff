"""What trained gates do: recorded from a network, measured over images, plotted and put into words.

- `record.py`: a published run's network; its SE gates and SK weights for each image.
- `images.py`: images with an enlarged centre, and the control with the same resolution but nothing enlarged.
- `grad_cam.py`: which image regions a class score comes from.
- `measures.py`, `figures.py`, `sentences.py`: arrays in; numbers, figures and sentences out. No torch.
"""
