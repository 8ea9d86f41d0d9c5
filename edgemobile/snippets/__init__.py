"""Ready-to-use code for one model file: `edgemobile snippet FILE --lang ...`.

model     what the code needs from the file: shapes, dtypes, scales, normalization, labels
source    fills in the templates
arena     what a microcontroller needs besides the array
*.in      the templates, one for each language and format
"""
