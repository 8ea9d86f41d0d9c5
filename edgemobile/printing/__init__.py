"""What the commands print, and the records of the Python API.

terminal  tables, notes, progress and errors on a terminal
"""
