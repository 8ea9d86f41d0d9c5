"""Does a file still say what its reference says? `run.parity(ParityRequest(ref, others))` gives a ParityReport.

From the bottom up:

    names      a stranger's tensors                  integers   int8 against the same int8, op by op
    layers     what each layer adds by itself        causes     every known mistake, made on purpose:
    observing  files, and the places they run                   wrong_wiring, wrong_numbers, on a suspect
    claims     what a file says of itself            output     JUnit, markdown
    report     the records                           run        all of it
"""
