"""Code ready to use for one model file: `edgemobile snippet FILE --lang ...`.

model     what the code has to know of the file: shapes, dtypes, scales, normalisation, labels
source    the templates filled in
arena     what a microcontroller needs beside the array
*.in      the templates, one for each language and format
"""
