"""Runs, evaluations, parity reports and exports as one page, tables and model cards. From the bottom up:

    sources    what a file holds, recognised by its content        plots    figures (matplotlib), and their SVG
    findings   all of it joined by the artifacts' sha256           text     markdown and CSV
    words      figures as they are read                            cards    a model card an artifact
                                                                   page     one HTML file that asks for nothing
"""
