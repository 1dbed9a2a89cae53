package ledger

import (
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

const maxReason = 1024 // bytes of a suspension's words

// Suspension ends a lease at once, on the word of one node.
type Suspension struct {
	Host    string
	Lease   uint64          // version of the lease that it ends
	Reason  string          // for people, one line
	Verdict keystead.Digest // on the evidence that failed; zero if there was none
	Signed
}

// Suspend signs a suspension as the node of that name. Of the reason, what is not
// printable is replaced, and what is too long left out.
func Suspend(k *key.Node, node string, domain keystead.Digest, host string, lease uint64, reason string, verdict keystead.Digest) Suspension {
	s := Suspension{Host: host, Lease: lease, Reason: line(reason), Verdict: verdict, Signed: Signed{Node: node}}
	s.Signature = k.Sign(s.message(domain))
	return s
}

// line makes one printable line of at most maxReason bytes.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}

func (s *Suspension) body(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(cursor.AppendSized16(b, s.Host), s.Lease)
	return append(cursor.AppendSized16(b, s.Reason), s.Verdict[:]...)
}

func (s *Suspension) message(domain keystead.Digest) []byte {
	return s.body(append([]byte("keystead suspension/1\n"), domain[:]...))
}

// Entry returns the suspension as an entry.
func (s *Suspension) Entry() ([]byte, error) {
	b := appendSigned(s.body(receipt.Header(receipt.KindSuspension)), s.Signed)
	_, err := ParseSuspension(b)
	return b, err
}

// ParseSuspension reads a suspension; it checks no signature.
func ParseSuspension(entry []byte) (s Suspension, err error) {
	b, err := body(entry, receipt.KindSuspension)
	if err != nil {
		return s, err
	}
	c := record("suspension", b)
	s = Suspension{Host: string(name(c, "host")), Lease: c.U64("lease"), Reason: string(c.Sized16(maxReason, "reason")), Verdict: digest(c, "verdict"), Signed: readSigned(c)}
	if c.Err() == nil && line(s.Reason) != s.Reason {
		c.Fail("reason", "is not one printable line")
	}
	c.End()
	if c.Err() != nil {
		return Suspension{}, c.Err()
	}
	return s, nil
}
