"""What the commands print, and the records of the Python API.

export       the table of an export
evaluation   accuracy, and what was detected about each file
parity       missed bounds, their causes, and the layers around the first that diverges
runs         latency or instructions, and two runs compared
layer_costs  the cost of every layer on an emulated core
results      the results store: a table, and the trend of one figure
adaptation   the steps of an adaptation, and its nets
file_names   the names of files in tables
terminal     tables, notes, progress and errors on a terminal
notebook     progress in a notebook
"""
