package eventlog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"

	"github.com/keystead/keystead/evidence"
)

// Boot returns the claims that the log proves. Since no register covers an event's
// type, none of them rests on one alone; a field that cannot be proven is zero.
//
//   - SecureBoot: PCR 7 has the digest of the variable SecureBoot with value 1 once,
//     before its first separator, and nowhere that of another value.
//   - Firmware: the one EV_S_CRTM_VERSION before the first separator of PCR 0 whose
//     text has its digest. A host can choose among the texts that its firmware
//     measured into PCR 0 there, but cannot write its own.
//   - Loaded: every digest in PCR 2 and 4, in order within each, that is not one of
//     a separator or of a short readable text. An image cannot be hidden among them;
//     something else than an image may be listed.
//   - Keys, Revoked: the lists db and dbx that firmware measured into PCR 7, each once
//     before its first separator.
//   - Authorities: every other event of PCR 7 after that, in order: what the images that
//     ran were verified by. SBAT: of shim's one SbatLevel there. Whoever controls the
//     running system can add to these: they are proof if PCR 7 stayed as it was when
//     the kernel started, which the caller checks (ima.List.CheckBootAggregate).
//   - SeparatorsAll: the registers 0 to 7 are covered and each has its separator.
func (l *Log) Boot() evidence.BootClaims {
	c := evidence.BootClaims{Events: int64(len(l.events)), Uncovered: int64(l.uncovered), SeparatorsAll: true}
	for pcr := range 8 {
		c.SeparatorsAll = c.SeparatorsAll && l.separator(pcr) != nil
	}
	c.SecureBoot = l.secureBoot()
	l.secureBootKeys(&c)
	c.Firmware = l.firmware()
	for _, pcr := range []int{2, 4} {
		for _, d := range l.images(pcr) {
			c.Loaded = append(c.Loaded, l.bank.String()+":"+hex.EncodeToString(d))
		}
	}
	return c
}

// separator returns a register's first separator, known by its digest: all zeros,
// or all ones on platforms with a legacy boot (PFP 1.06, 3.3.2.2). Nil if there is none.
func (l *Log) separator(pcr int) *Event {
	for e := range l.of(pcr) {
		if bytes.Equal(e.Digest, l.zeros) || bytes.Equal(e.Digest, l.ones) {
			return e
		}
	}
	return nil
}

// secureBootVariable returns the UEFI_VARIABLE_DATA of SecureBoot as firmware measures it.
func secureBootVariable(value ...byte) []byte {
	b := binary.LittleEndian.AppendUint64(slices.Clone(globalVariable[:]), uint64(len("SecureBoot")))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	for _, c := range "SecureBoot" {
		b = append(b, byte(c), 0)
	}
	return append(b, value...)
}

func (l *Log) secureBoot() bool { return l.secureBootIn(7) }

// secureBootIn looks in the register that the variable SecureBoot is measured into.
func (l *Log) secureBootIn(pcr int) bool {
	end := l.separator(pcr)
	on, off, absent := l.sum(secureBootVariable(1)), l.sum(secureBootVariable(0)), l.sum(secureBootVariable())
	n := 0
	for e := range l.of(pcr) {
		switch {
		case bytes.Equal(e.Digest, off), bytes.Equal(e.Digest, absent):
			return false
		case bytes.Equal(e.Digest, on):
			if end == nil || e.Number > end.Number {
				return false
			}
			n++
		}
	}
	return n == 1
}

// firmware returns the text of the one EV_S_CRTM_VERSION event (PFP 1.06, 3.3.4.1).
func (l *Log) firmware() string {
	end := l.separator(0)
	var version []byte
	n := 0
	for e := range l.of(0) {
		if end == nil || e.Number > end.Number {
			break
		}
		if e.Type == CRTMVersion && l.Bound(e) {
			version = e.Data
			n++
		}
	}
	if n != 1 {
		return ""
	}
	return versionText(version)
}

// versionText decodes UTF-16 text with a terminating NUL, or gives other bytes in hex.
func versionText(b []byte) string {
	var text []byte
	for i := 0; i+1 < len(b) && i < 512; i += 2 {
		if b[i+1] != 0 {
			break
		}
		text = append(text, b[i])
	}
	text, ended := bytes.CutSuffix(text, []byte{0})
	if ended && len(b) == 2*len(text)+2 && (len(text) == 0 || printable(text)) {
		return string(text)
	}
	return hex.EncodeToString(b[:min(len(b), 64)])
}

// images returns the digests of a register that are not those of a separator or of
// a short readable text, such as "Calling EFI Application from Boot Option".
func (l *Log) images(pcr int) (out [][]byte) {
	for e := range l.of(pcr) {
		if short := len(e.Data) == 4 || printable(e.Data); !short || !l.Bound(e) {
			out = append(out, e.Digest)
		}
	}
	return out
}

// printable reports whether b is readable ASCII of at most 256 bytes, which no
// executable is, perhaps with a terminating NUL.
func printable(b []byte) bool {
	b = bytes.TrimSuffix(b, []byte{0})
	if len(b) == 0 || len(b) > 256 {
		return false
	}
	for _, c := range b {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}
