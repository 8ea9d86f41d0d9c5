"""Runs, evaluations, parity reports and exports as one page, tables and model cards. From the lowest layer up:

sources         reads the inputs of a report, recognized by their content
findings        joins all inputs by the sha256 of the model files
words           formats numbers
drawing, tables a figure as SVG; rows of cells
over_time       the results of a store as a table
plots, text     the figures (matplotlib); markdown and CSV
page, cards     one self-contained HTML file; one model card per model file
"""
