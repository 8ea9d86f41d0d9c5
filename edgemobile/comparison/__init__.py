"""Compares files with their reference. `run.parity(ParityRequest(ref, others))` returns a ParityReport.

From the lowest layer up:

equivalent_ops      rewrites a file's graph in the ops that the reference uses
names               matches the tensors of a third-party file with those of the reference
layers              the error that each layer adds by itself
observing           runs files on execution targets and records their activations
integers            compares two int8 files of the same integers op by op
causes              tests known mistakes on a diverging_layer: structural_faults, numeric_faults
stored_numbers      checks the numbers stored in an int8 file: same_quantization compares them with those of an int8
                    reference, int8_checks with a float reference and each other
findings            a wrong stored number, as a record
oracle              why an int8 file's outputs differ from the arithmetic of its graph
metadata_checks     checks a file's metadata
remote              runs files on a device; device_vs_host compares the device's integers with this machine's
report, output      the records; JUnit and markdown
run                 the whole comparison
"""
