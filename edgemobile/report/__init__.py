"""Runs, evaluations, parity reports and exports as one page, tables and model cards. From the bottom up:

sources         what a file holds, recognised by its content
findings        all of it, joined by the artifacts' sha256
words           figures as they are read
drawing, tables a figure as SVG; rows of cells
plots, text     the figures (matplotlib); markdown and CSV
page, cards     one HTML file that asks for nothing; a model card an artifact
"""
