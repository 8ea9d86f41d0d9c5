"""Folders of images, for calibration and for accuracy.

dataset       a folder or zip of images a class, read lazily
class_labels  which output of a model each folder is
samples       the images a job works on: some to calibrate with, others to check
"""
