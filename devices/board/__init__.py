"""The code that runs on a board: it needs only Python 3.9, numpy and one runtime.

worker     runs a job: job.json -> run.json
parts      runs part of a job in a separate process
measuring  times inferences, or counts their instructions
profiling  time per op
probe      what the board is, and its operating conditions
repair     removes files of a job that a power cut damaged
unpack     unpacks the wheels that setup sends
"""
