"""The accuracy of model files, on this machine or on a device.

classifier    any model as a classifier: its preprocessing, and the meaning of its outputs
evaluate      runs every file on the same images, in processes; evaluation: the request and the result
remote        the same on devices
detection     average precision of detectors (detector, coco); segmentation: mean IoU; pictures: their request
doubts        likely causes of a low accuracy
statistics    confidence intervals, and whether two files differ
"""
