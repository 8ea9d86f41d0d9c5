"""What runs on a board: Python 3.9, numpy and one runtime, nothing else.

worker     runs a job: job.json -> run.json
measuring  times or counts inferences
profiling  how the delegate cuts a file
probe      what the board is and its operating conditions
unpack     unpacks the wheels that setup sends
"""
