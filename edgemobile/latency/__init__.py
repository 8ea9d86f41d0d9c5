"""Latency of files on a device. `run.bench(BenchRequest(files, device))` returns a Run.

run         measures a request and returns a Run, with notes about its validity
compare     compares two runs
statistics  summaries of raw values, confidence intervals, and whether a measurement can be trusted
"""
