"""The results store: a file of measurements that outlasts the runs, and what changed in it over time.

record   one measurement, a line of JSON
store    the file: append and read
sources  runs and evaluations as results
since    the time from which results are wanted
trend    one figure over time, with the points where it changed
"""
