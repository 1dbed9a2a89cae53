// Package recording reads a recorded measured boot, so that the evidence of a
// real machine can be had without booting one.
//
// A recording is what one guest of the test bed left behind: the firmware's event
// log, the kernel's IMA log with a mark after each of its phases, the PCR values
// read from the TPM at each mark, and what is needed to judge them. Replayed into
// a fresh software TPM it gives exactly the recorded values; a quote of that TPM
// is then a live quote over a past boot, which whoever shows it must say.
//
// The package trusts nothing: a recording is evidence like any other. docs/testbed.md
// describes the files.
package recording
