package process

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// reportMagic opens a report and carries its version. It only ever grows:
//
//	1  challenge, boot id, key name and version, wrapping key
const reportMagic = "keystead-application-report/1\n"

// Bounds of a report, in bytes.
const (
	ChallengeSize = 32
	MaxReport     = 2048
	maxKeyName    = 128
	maxWrapping   = 1216 // ML-KEM-768 with X25519
)

// BootID names one boot of one Linux machine: /proc/sys/kernel/random/boot_id.
type BootID [16]byte

// ParseBootID reads the kernel's text form, with or without a newline at its end.
func ParseBootID(s string) (id BootID, err error) {
	s = strings.TrimSuffix(s, "\n")
	parts := strings.Split(s, "-")
	if len(s) != 36 || len(parts) != 5 || len(parts[0]) != 8 || len(parts[1]) != 4 || len(parts[2]) != 4 || len(parts[3]) != 4 {
		return id, fmt.Errorf("%.40q is not a boot id", s)
	}
	if _, err := hex.Decode(id[:], []byte(strings.Join(parts, ""))); err != nil {
		return BootID{}, fmt.Errorf("%.40q is not a boot id", s)
	}
	return id, nil
}

// String returns the kernel's text form.
func (b BootID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// A Report is what a local application says: nothing in it is believed before
// [Verify], and then only that it answers the challenge.
type Report struct {
	Challenge [ChallengeSize]byte
	Boot      BootID
	Key       string         // name of the key asked for: 1 to 128 of a-z, A-Z, 0-9 and . _ / -
	Version   uint64         // of the key; 0 for the newest
	Wrapping  hpke.PublicKey // of ML-KEM-768 with X25519, or X25519
}

// KEMs are the ones that a wrapping key may be of, the better one first: ML-KEM-768
// with X25519, and X25519 alone for applications that have no other.
func KEMs() []hpke.KEM {
	return []hpke.KEM{hpke.MLKEM768X25519(), hpke.DHKEM(ecdh.X25519())}
}

// Encode returns the report's bytes (docs/spec/application.md), or a
// *keystead.FormatError if a field is out of its bounds.
func (r Report) Encode() ([]byte, error) {
	if r.Wrapping == nil {
		return nil, &keystead.FormatError{Format: "application-report", Field: "wrapping key", Problem: "is missing"}
	}
	b := append([]byte(reportMagic), r.Challenge[:]...)
	b = append(b, r.Boot[:]...)
	b = cursor.AppendSized16(b, r.Key[:min(len(r.Key), maxKeyName+1)])
	b = binary.BigEndian.AppendUint64(b, r.Version)
	b = binary.BigEndian.AppendUint16(b, r.Wrapping.KEM().ID())
	b = cursor.AppendSized16(b, r.Wrapping.Bytes())
	_, err := Parse(b)
	return b, err
}

// Parse reads a report. It fails with a *keystead.FormatError.
func Parse(raw []byte) (Report, error) {
	c := cursor.New("application-report", binary.BigEndian, raw)
	if len(raw) > MaxReport {
		c.Fail("size", "is %d bytes, at most %d are accepted", len(raw), MaxReport)
	}
	if magic := c.Bytes(len(reportMagic), "magic"); c.Err() == nil && string(magic) != reportMagic {
		c.Fail("magic", "is %q, want %q", magic, reportMagic)
	}
	var r Report
	copy(r.Challenge[:], c.Bytes(ChallengeSize, "challenge"))
	copy(r.Boot[:], c.Bytes(len(r.Boot), "boot id"))
	r.Key = string(c.Sized16(maxKeyName, "key name"))
	if c.Err() == nil && !keyName(r.Key) {
		c.Fail("key name", "is %q, and not 1 to %d of a-z, A-Z, 0-9 and . _ / -", r.Key, maxKeyName)
	}
	r.Version = c.U64("key version")
	kem := c.U16("wrapping key")
	public := c.Sized16(maxWrapping, "wrapping key")
	c.End()
	if c.Err() != nil {
		return Report{}, c.Err()
	}
	for _, k := range KEMs() {
		if k.ID() != kem {
			continue
		}
		var err error
		if r.Wrapping, err = k.NewPublicKey(public); err != nil {
			c.Fail("wrapping key", "is no key of KEM 0x%04x", kem)
			return Report{}, c.Err()
		}
		return r, nil
	}
	c.Fail("wrapping key", "is of KEM 0x%04x, which is not accepted", kem)
	return Report{}, c.Err()
}

// keyName reports whether s may name a key.
func keyName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._/-", r))
	})
}

// Verify parses a report and checks that it answers the challenge on this boot of
// this machine. It refuses a report of another boot or machine (report-foreign) and
// one to another challenge (report-replayed).
func Verify(raw []byte, challenge [ChallengeSize]byte, boot BootID) (Report, error) {
	r, err := Parse(raw)
	if err != nil {
		return Report{}, err
	}
	var found []keystead.Finding
	if r.Boot != boot {
		found = append(found, keystead.Finding{Reason: keystead.ReasonReportForeign, Where: "application's report", Want: "boot " + boot.String(), Got: r.Boot.String()})
	}
	if r.Challenge != challenge {
		found = append(found, keystead.Finding{Reason: keystead.ReasonReportReplayed, Where: "application's report",
			Want: "an answer to this connection's challenge", Got: "an answer to another"})
	}
	if found != nil {
		return Report{}, keystead.Deny(found...)
	}
	return r, nil
}

// Info is the HPKE info under which a key is sealed in answer to a report: it binds
// the answer to all that the report says.
func Info(report []byte) []byte {
	d := sha256.Sum256(report)
	return append([]byte("keystead/release-to-application/1\x00"), d[:]...)
}

// Suite returns the rest of the HPKE suite (RFC 9180, 7): HKDF-SHA256 and AES-256-GCM.
func Suite() (hpke.KDF, hpke.AEAD) { return hpke.HKDFSHA256(), hpke.AES256GCM() }
