"""What trained gates do: recorded from a network, measured over images, drawn and put into words.

- `record.py`: a published run's network, and its SE gates and SK weights image by image.
- `images.py`: the centre enlarged, and the same images made as coarse without enlarging them.
- `grad_cam.py`: where in an image a class's score comes from.
- `measures.py`, `figures.py`, `sentences.py`: arrays in, numbers, figures and words out; no torch.
"""
