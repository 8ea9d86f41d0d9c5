"""Folders of images, for calibration and for accuracy.

dataset       a directory or zip with one folder per class, read lazily
class_labels  the output of a model that each folder belongs to
samples       the images of an export: some to calibrate on, others to check on
"""
