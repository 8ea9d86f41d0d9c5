"""Fine-tunes a model on the user's images: in float, and for int8 on the integers of the files.

request       what to train, and the result
images        the images: their classes, those held out, augmented batches
head          the classifier for the classes of the images
loop          one training run: optimizer, schedule, averaged weights, progress on disk
folder        the output folder, and the state in it for --resume
run           the whole training, from a model to a folder with a checkpoint
"""

from __future__ import annotations
