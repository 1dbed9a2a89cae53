// Package collect touches this machine's devices and files and makes evidence of
// them: the TPM, the kernel's and the firmware's logs, the package list.
//
// It judges nothing, and nobody has to trust it: a lie told here is found by
// whoever appraises the bundle. What it must do well is to say, to the person at
// the machine, what it found, what it did not find and what to do about it: see
// [Error].
package collect

// Error is trouble with this machine, for the person in front of it.
type Error struct {
	Found string // what is there, or is not: "no TPM: neither /dev/tpmrm0 nor /dev/tpm0 exists"
	Hint  string // what to do about it, in one sentence
	Err   error  // what lies beneath, if anything
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Found
	}
	return e.Found + ": " + e.Err.Error()
}

// Unwrap returns what lies beneath.
func (e *Error) Unwrap() error { return e.Err }
