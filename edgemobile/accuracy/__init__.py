"""How often a model file is right, on this machine or on a device.

classifier  any model as a classifier: what its input wants, what its outputs mean
evaluate    every file on the same images, in processes; evaluation: what was asked and what came out
remote      the same on a device
statistics  how sure a count is, and whether two files differ
"""
