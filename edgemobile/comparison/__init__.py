"""Does a file still say what its reference says? `run.parity(ParityRequest(ref, others))` gives a ParityReport.

From the bottom up:

spellings           a layer written in other ops, as the op it is
names               which tensor of a third-party file is which of the reference's
layers              what each layer adds by itself
observing           files, and the targets they run on
integers            int8 against the same int8, op by op
causes              every known mistake, made on purpose on a diverging_layer: structural_faults, numeric_faults
stored_numbers      what an int8 file's own numbers say: against its twin (twins) or a float reference (own_numbers)
findings            what differs, as a record
oracle              why an int8 file is steps away from the arithmetic it was written from
metadata_checks     what a file states of itself
remote              the same on a device; device_vs_host: the same integers there as here
report, output      the records; JUnit and markdown
run                 all of it
"""
