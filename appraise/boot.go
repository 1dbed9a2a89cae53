package appraise

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// A Boot is what evidence says of which boot of a machine it is of: the TPM's counters and
// clock (TPM 2.0 Part 2, TPMS_CLOCK_INFO and firmwareVersion of TPMS_ATTEST), and
// how far the IMA log went. The zero Boot says nothing.
type Boot struct {
	Resets   uint32          // TPM resets, which are boots, since TPM2_Clear
	Restarts uint32          // resumes, and boots from a saved state, since the last reset
	Clock    uint64          // milliseconds that the TPM was powered, since TPM2_Clear
	Unsafe   bool            // the TPM may have stated a later clock: power was lost without an orderly end
	Firmware uint64          // of the TPM; 0 if it is not known
	LogBytes uint64          // proven bytes of the IMA log; 0 for no log
	Log      keystead.Digest // SHA-256 of them
}

// BootOf returns which boot the claims of an allowed verdict, and the state beside them,
// are of. The key is a primary key of the endorsement hierarchy: others hide the counters.
func BootOf(c evidence.QuoteClaims, s *State) Boot {
	from := s.Reference()
	firmware, _ := strconv.ParseUint(c.Firmware, 16, 64) // as tpm2.Quote.Claims writes it; 0 for ""
	return Boot{Resets: uint32(c.ResetCount), Restarts: uint32(c.RestartCount), Clock: uint64(c.Clock), Unsafe: c.Firmware != "" && !c.ClockSafe, Firmware: firmware,
		LogBytes: from.Bytes, Log: from.IMALog}
}

// Began reports whether an IMA log begins with the one of this boot.
func (b Boot) Began(log []byte) bool {
	return uint64(len(log)) >= b.LogBytes && (b.LogBytes == 0 || keystead.Sum(log[:b.LogBytes]) == b.Log)
}

// Follows reports whether a quote may be of the same boot, later on: no reset since, and
// nothing went back.
func (b Boot) Follows(now Boot) bool {
	return now.Resets == b.Resets && now.Restarts >= b.Restarts && now.Clock >= b.Clock
}

// Since names what became of the machine since an earlier boot of it: rebooted, resumed,
// clock-unsafe, firmware-changed, and tpm-cleared, which a state put in place of the TPM's
// own looks like as well.
func (b Boot) Since(was Boot) (out []string) {
	switch {
	case b.Resets < was.Resets, b.Resets > was.Resets && b.Clock < was.Clock && !b.Unsafe: // a clock that is safe is behind none
		out = append(out, "tpm-cleared")
	case b.Resets > was.Resets:
		out = append(out, "rebooted")
		if b.Unsafe {
			out = append(out, "clock-unsafe")
		}
	case b.Restarts > was.Restarts:
		out = append(out, "resumed")
	}
	if was.Firmware != 0 && b.Firmware != was.Firmware {
		out = append(out, "firmware-changed")
	}
	return out
}

// replace notes a boot_aggregate after the first: what was established of the kernel that
// the firmware started says nothing of the one that runs.
func (a *appraisal) replace(i int) {
	a.replaced, a.claims.Kernel = true, evidence.KernelClaims{}
	if a.in.Policy.EveryEntry() || a.in.Policy.BootAccepted() {
		a.find(keystead.Finding{Reason: keystead.ReasonKernelReplaced, Where: fmt.Sprintf("measurement list, entry %d", i), Want: "one boot_aggregate, of the kernel that the firmware started",
			Got: "a further one: kexec started another kernel, which went on with the list"})
	}
}

// lost says of a log that does not lead to the quote what is behind it, if more is known:
// within a boot a log only grows, so one that is another than it was a while ago has begun
// anew, as it does when kexec starts a kernel, or was rewritten.
func (a *appraisal) lost(err error) error {
	seen := a.in.Seen
	if seen == nil || seen.LogBytes == 0 || !errors.Is(err, keystead.ReasonLogTruncated) || !seen.Follows(BootOf(a.claims.Quote, nil)) || seen.Began(a.parts.IMALog) {
		return err
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonLogLost, Where: "ima-log",
		Want: fmt.Sprintf("the log that this boot had, which began with %d bytes of %v", seen.LogBytes, seen.Log),
		Got:  "one that begins anew and does not lead to the register, in a boot that the TPM has not ended: a kernel that kexec started, or a log that was rewritten"})
}
