"""The reference models.

arch    the papers' tables, as rows
layers  a table's layers with their shapes and state_dict keys
cost    parameters, MACs and activation bytes of each layer
nets    a table as a torch module
"""
