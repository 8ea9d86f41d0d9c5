"""What the commands print, and the records of the Python API.

export      the table of an export
evaluation  accuracy, and what was detected about each file
parity      missed bounds, their causes, and the layers around the first that diverges
runs        latency or instructions, and two runs compared
terminal    tables, notes, progress and errors on a terminal
"""
