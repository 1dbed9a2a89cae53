package evidence

import "fmt"

// Assurance says how strong a verdict is: what an adversary would have to break.
// The order is from nothing to most.
type Assurance int

const (
	// AssuranceNone: nothing ties the evidence to a machine.
	AssuranceNone Assurance = iota
	// AssuranceTest: a software TPM, whose owner can make it say anything.
	AssuranceTest
	// AssuranceMeasuredOSWeak: a hardware TPM; what was loaded is known, but root can
	// alter programs in memory or the kernel.
	AssuranceMeasuredOSWeak
	// AssuranceMeasuredOS: the same with an accepted boot, lockdown=confidentiality,
	// ptrace_scope=3, every executed file named and no debugger among the accepted files.
	// Root at run time and physical access still see memory.
	AssuranceMeasuredOS
	// AssuranceTEEVM: a virtual machine whose memory the host's owner can not read
	// (SEV-SNP, TDX, Nitro). It says nothing of what runs inside: claims do.
	AssuranceTEEVM
	// AssuranceTEEProcess: an enclave (SGX); likewise, and no kernel inside.
	AssuranceTEEProcess
)

var assuranceNames = [...]string{"none", "test", "measured-os-weak", "measured-os", "tee-vm", "tee-process"}

// Assurances returns all levels, from nothing to most.
func Assurances() (all []Assurance) {
	for i := range assuranceNames {
		all = append(all, Assurance(i))
	}
	return all
}

// ParseAssurance reads a level's name.
func ParseAssurance(s string) (Assurance, error) {
	for i, n := range assuranceNames {
		if n == s {
			return Assurance(i), nil
		}
	}
	return 0, fmt.Errorf("assurance level %q is not one of %v", s, assuranceNames)
}

// String returns the level's name, such as measured-os.
func (a Assurance) String() string {
	if a < 0 || int(a) >= len(assuranceNames) {
		return fmt.Sprintf("assurance(%d)", int(a))
	}
	return assuranceNames[a]
}

// MarshalText returns the level's name.
func (a Assurance) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads the level's name.
func (a *Assurance) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAssurance(string(b))
	return err
}
