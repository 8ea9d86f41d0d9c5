"""Latency of files on a device. `run.bench(BenchRequest(files, device))` returns a Run.

run         from request to Run, with notes about its validity
compare     compares two runs
statistics  summaries of raw values, confidence intervals, and whether to trust them
"""
