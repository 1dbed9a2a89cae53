package eventlog

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/chain"
)

// RTMRs is the number of run-time measurement registers of a TD.
const RTMRs = 4

// judgedRTMRs are those that firmware, boot loader and EFI stub measure into; 3 is for
// whatever runs later, without an entry in this log.
const judgedRTMRs = 3

// A CCLog is a confidential computing event log (CCEL, UEFI 2.10, 38.4) whose replay
// equals a TD's registers 0 to 2. What a replay proves, and what not, is as for a [Log]:
// digests and their order within a register.
type CCLog struct{ log *Log }

// OpenCC parses a log and replays it against the registers that a quote proves, of
// SHA-384. Behind its events the log may be filled up with one byte, 0x00 or 0xFF, as the
// firmware's table is. Refusals are those of Open.
func OpenCC(raw []byte, rtmr [RTMRs][]byte) (*CCLog, error) {
	if len(raw) == 0 {
		return nil, deny(keystead.ReasonEvidenceMissing, "cc-event-log", "an event log", "none")
	}
	p := newParser(raw, []evidence.Bank{evidence.SHA384})
	if err := p.header(); err != nil {
		return nil, err
	}
	if p.legacy || p.algorithm(evidence.SHA384) == nil {
		return nil, deny(keystead.ReasonEvidenceMissing, "cc-event-log", "digests of bank sha384", "a log with "+p.declared())
	}
	l := &Log{bank: evidence.SHA384}
	l.zeros, l.ones = l.sum([]byte{0, 0, 0, 0}), l.sum([]byte{0xff, 0xff, 0xff, 0xff})
	var state [RTMRs]chain.Value
	var rec record
	for n := 1; p.more() && !p.padding(); n++ {
		if err := p.next(n, &rec); err != nil {
			return nil, err
		}
		switch {
		case rec.typ == NoAction:
		case rec.pcr > RTMRs || rec.digest[0] == nil:
			p.c.Fail("register", "event %d is of register %d, with sha384: %v; they are 0 (MRTD) to %d", n, rec.pcr, rec.digest[0] != nil, RTMRs)
			return nil, p.c.Err()
		case rec.pcr == 0 || rec.pcr > judgedRTMRs:
			l.uncovered++
		default:
			r := int(rec.pcr) - 1
			state[r].Extend(evidence.SHA384, rec.digest[0])
			l.events = append(l.events, Event{Number: n, PCR: r, Type: rec.typ, Digest: rec.digest[0], Data: rec.data})
		}
	}
	return &CCLog{l}, l.compareCC(state, rtmr)
}

// padding reports whether only filling follows. Such bytes are no event: no register is
// 0xFFFFFFFF, and no event is of type 0 without a digest.
func (p *parser) padding() bool {
	rest := p.c.Rest()
	if len(rest) == 0 {
		return false
	}
	fill := rest[0]
	if n := min(8, len(rest)); fill != 0 && fill != 0xff || bytes.Count(rest[:n], []byte{fill}) < n {
		return false // so that the rest is counted once
	}
	return bytes.Count(rest, []byte{fill}) == len(rest)
}

func (l *Log) compareCC(state [RTMRs]chain.Value, rtmr [RTMRs][]byte) error {
	var bad []keystead.Finding
	for i := range judgedRTMRs {
		if state[i].Is(rtmr[i]) {
			continue
		}
		f := keystead.Finding{Reason: keystead.ReasonPCRMismatch, Where: fmt.Sprintf("cc-event-log, RTMR %d", i),
			Want: hex.EncodeToString(rtmr[i]), Got: hex.EncodeToString(state[i][:evidence.SHA384.Size()])}
		var digests [][]byte
		for e := range l.of(i) {
			digests = append(digests, e.Digest)
		}
		if edit, at := chain.Explain(evidence.SHA384, chain.Value{}, digests, nil, rtmr[i], explainBudget); edit != chain.Unknown {
			f.Reason = keystead.ReasonLogAltered
			f.Got += fmt.Sprintf(", edited at event %d of the register's %d", at, len(digests))
		}
		bad = append(bad, f)
	}
	if bad != nil {
		return keystead.Deny(bad...)
	}
	return nil
}

// Boot returns the claims that the log proves, as [Log.Boot] does. RTMR 0 has what PCR 1
// and 7 have elsewhere, RTMR 1 what PCR 2 to 6 have. The firmware itself is in MRTD.
func (c *CCLog) Boot() evidence.BootClaims {
	l := c.log
	b := evidence.BootClaims{Events: int64(len(l.events)), Uncovered: int64(l.uncovered),
		SecureBoot: l.secureBootIn(0), SeparatorsAll: l.separator(0) != nil && l.separator(1) != nil}
	for _, d := range c.images() {
		b.Loaded = append(b.Loaded, "sha384:"+hex.EncodeToString(d))
	}
	return b
}

// images returns the digests of RTMR 1 that may be an image's: all but those of bytes that
// the log has and that firmware loads from nowhere: separators, short texts, and partition
// tables (UEFI 2.10, 5.3.2). The Authenticode digest of an image is over bytes that begin as
// the file does: with MZ, or with PE where firmware does without a header for DOS.
func (c *CCLog) images() (out [][]byte) {
	for e := range c.log.of(1) {
		b, ok := c.log.hashed(e)
		if !ok || bytes.HasPrefix(b, []byte("MZ")) || len(b) != 4 && !printable(b) && !bytes.HasPrefix(b, []byte("EFI PART")) {
			out = append(out, e.Digest)
		}
	}
	return out
}

// Kernel returns what was measured of the kernel, its command line and its initrd: images
// are in RTMR 1, the events of the EFI stub in RTMR 2, which also has what PCR 8 and 12 to
// 14 have elsewhere. What [Log.Kernel] says of the order of events holds here, too.
//
// A TD has no boot_aggregate: whoever runs in the guest later can extend both registers.
// So the caller accepts each digest in Loaders and in Before, whatever the state of Secure
// Boot: then the kernel that was started first is the last image, and the command line
// that its stub measured is among those accepted. With an initrd that is not in Before,
// too, the last two events are those of the stub, unless it measured no initrd.
func (c *CCLog) Kernel() (Kernel, error) {
	return c.log.started(c.images(), 2, "cc-event-log, RTMR 1", "cc-event-log, RTMR 2")
}

// LoadedOptions is that of the TD's log, as [Log.LoadedOptions] is.
func (c *CCLog) LoadedOptions(k Kernel) string { return c.log.LoadedOptions(k) }

// Place says which register and which event of the log hold a digest, for people, as
// [Log.Place] does.
func (c *CCLog) Place(d keystead.Measured, rtmr ...int) string {
	return strings.Replace(c.log.Place(d, rtmr...), "(PCR", "(RTMR", 1)
}

// Digests returns the digests of a register's events, in order: sha384 and hex.
func (c *CCLog) Digests(rtmr int) (out []string) {
	for e := range c.log.of(rtmr) {
		out = append(out, "sha384:"+hex.EncodeToString(e.Digest))
	}
	return out
}

// Text returns what GRUB measured into RTMR 2, in order, each proven by its digest. The
// labels are not: a command may be presented as a command line.
func (c *CCLog) Text() (out []string) {
	for e := range c.log.of(2) {
		if text, ok := grubText(e.Data); ok && e.Type == IPL && c.log.Bound(e) {
			out = append(out, string(text))
		}
	}
	return out
}
