"""Exports a model to files, checks them, and writes a manifest.

export    lower, calibrate, quantize, write, check
request   what to export, and the result
check     runs the written files and compares them with PyTorch
other_files  the files of the folder that are not models: labels, a program that runs the models on a board, a README
predict_program  that program, before edgemobile's own modules are copied into it
backends  how a graph becomes a file of each format
manifest  manifest.json and the metadata in each file
folder    reads the folder of an export, and checks that its files are unchanged
artifact  writes the folder of an export atomically
"""
