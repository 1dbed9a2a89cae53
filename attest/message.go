package attest

import (
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cursor"
)

// Bounds of fields, in bytes or in number.
const (
	nonceSize    = 32
	maxPublic    = 1 << 10  // of a TPMT_PUBLIC
	maxCerts     = 8        // of an endorsement certificate's chain
	maxCert      = 16 << 10 // of one certificate
	maxKind      = 16       // of the name of a TEE's kind
	maxMachine   = 256      // of that of its machine
	maxSealed    = 1 << 10  // of a credential's part
	maxFindings  = 32       // of a refusal; further ones are left out
	maxReason    = 64
	maxStatement = 512 // of a finding's want, got or where; the rest is cut off
)

// hello opens the exchange.
type hello struct {
	nonce [nonceSize]byte // for the peer's evidence
	keys  evidence.TPMKeys
}

func (h hello) frame() []byte {
	return newFrame(kindHello, func(b []byte) []byte {
		b = append(b, h.nonce[:]...)
		b = cursor.AppendSized16(b, h.keys.AKPublic)
		b = cursor.AppendSized16(b, h.keys.EKPublic)
		b = append(b, byte(len(h.keys.EKCertificate)))
		for _, c := range h.keys.EKCertificate {
			b = cursor.AppendSized16(b, c)
		}
		if t := h.keys.TEE; !t.IsZero() { // its key is that of TLS
			b = cursor.AppendSized16(cursor.AppendSized16(b, t.Kind), t.Machine)
		}
		return b
	})
}

func parseHello(payload []byte) (h hello, err error) {
	c := cursor.New(format, binary.BigEndian, payload)
	copy(h.nonce[:], c.Bytes(nonceSize, "nonce"))
	h.keys.AKPublic = c.Sized16(maxPublic, "attestation key")
	h.keys.EKPublic = c.Sized16(maxPublic, "endorsement key")
	n := int(c.U8("certificates"))
	if n > maxCerts {
		c.Fail("certificates", "are %d, at most %d are accepted", n, maxCerts)
	}
	for range n {
		if c.Err() != nil {
			break
		}
		h.keys.EKCertificate = append(h.keys.EKCertificate, c.Sized16(maxCert, "certificate"))
	}
	if k := &h.keys; c.Err() == nil && len(k.AKPublic)+len(k.EKPublic)+n == 0 && c.Len() >= 4 { // a host with a TEE alone
		k.TEE.Kind, k.TEE.Machine = string(c.Sized16(maxKind, "TEE's kind")), string(c.Sized16(maxMachine, "TEE's machine"))
		if c.Err() == nil && (k.TEE.Kind == "" || k.TEE.Machine == "") {
			c.Fail("TEE", "has no kind, or no machine")
		}
	}
	c.End()
	return h, c.Err()
}

// fits reports whether keys are within the bounds of a hello.
func fits(k evidence.TPMKeys) error {
	h := hello{keys: k}
	if t := k.TEE; !t.IsZero() && (len(k.AKPublic)+len(k.EKPublic)+len(k.EKCertificate) > 0 || t.Kind == "" || t.Machine == "" || len(t.Kind) > maxKind || len(t.Machine) > maxMachine) {
		return malformed(0, "hello", "introduces a TEE's host without a name, with too long a one, or with keys of a TPM")
	}
	if len(k.AKPublic) > maxPublic || len(k.EKPublic) > maxPublic || len(k.EKCertificate) > maxCerts {
		return malformed(0, "hello", "own keys or certificates exceed its bounds")
	}
	for _, c := range k.EKCertificate {
		if len(c) > maxCert {
			return malformed(0, "hello", "an own certificate exceeds its bounds")
		}
	}
	if n := len(h.frame()) - headerSize; n > maxHello {
		return malformed(0, "hello", "own keys and certificates are %d bytes, at most %d fit", n, maxHello)
	}
	return nil
}

// challengeFrame carries a credential, empty if nothing is asked.
func challengeFrame(c evidence.Credential) []byte {
	return newFrame(kindChallenge, func(b []byte) []byte {
		return cursor.AppendSized16(cursor.AppendSized16(b, c.Blob), c.Secret)
	})
}

// parseChallenge returns nil for the challenge that asks nothing.
func parseChallenge(payload []byte) (*evidence.Credential, error) {
	c := cursor.New(format, binary.BigEndian, payload)
	out := &evidence.Credential{Blob: c.Sized16(maxSealed, "credential"), Secret: c.Sized16(maxSealed, "encrypted secret")}
	c.End()
	if len(out.Blob) == 0 && len(out.Secret) == 0 {
		out = nil
	}
	return out, c.Err()
}

// evidenceFrame carries the answer to the challenge and the bundle.
func evidenceFrame(answer []byte, bundle evidence.Bundle) []byte {
	return newFrame(kindEvidence, func(b []byte) []byte {
		return append(cursor.AppendSized16(b, answer), bundle.Bytes()...)
	})
}

func parseEvidence(payload []byte) (answer []byte, bundle evidence.Bundle, err error) {
	c := cursor.New(format, binary.BigEndian, payload)
	answer = c.Sized16(maxAnswer, "answer")
	if c.Err() != nil {
		return nil, bundle, c.Err()
	}
	bundle, err = evidence.Parse(c.Rest())
	return answer, bundle, err
}

// What a verdict frame opens with.
const (
	saysNo  = 0
	saysYes = 1
)

// acceptance is the verdict frame that says yes.
func acceptance() []byte {
	return newFrame(kindVerdict, func(b []byte) []byte { return append(b, saysYes) })
}

// refusal is the verdict frame that says no, and why. What exceeds the bounds is cut.
func refusal(findings []keystead.Finding) []byte {
	findings = findings[:min(len(findings), maxFindings)]
	return newFrame(kindVerdict, func(b []byte) []byte {
		b = append(b, saysNo, byte(len(findings)))
		for _, f := range findings {
			b = cursor.AppendSized16(b, cut(string(f.Reason), maxReason))
			for _, s := range []string{f.Want, f.Got, f.Where} {
				b = cursor.AppendSized16(b, cut(s, maxStatement))
			}
		}
		return b
	})
}

// parseVerdict returns nil for yes and a *RefusedError for no; err is for bytes that
// are neither. The peer's words are made safe to print.
func parseVerdict(payload []byte) (no *RefusedError, err error) {
	c := cursor.New(format, binary.BigEndian, payload)
	says := c.U8("verdict")
	if says == saysYes {
		c.End()
		return nil, c.Err()
	}
	n := int(c.U8("findings"))
	if says != saysNo || n == 0 || n > maxFindings {
		c.Fail("findings", "verdict %d with %d findings: want 1 alone, or 0 with 1 to %d", says, n, maxFindings)
	}
	no = &RefusedError{}
	for range n {
		if c.Err() != nil {
			break
		}
		reason := string(c.Sized16(maxReason, "reason"))
		if reason == "" || strings.Trim(reason, "abcdefghijklmnopqrstuvwxyz-") != "" {
			c.Fail("reason", "is not lower-case letters and dashes")
		}
		f := keystead.Finding{Reason: keystead.Reason(reason)}
		for _, s := range []*string{&f.Want, &f.Got, &f.Where} {
			*s = printable(string(c.Sized16(maxStatement, "statement")))
		}
		no.Findings = append(no.Findings, f)
	}
	c.End()
	if c.Err() != nil {
		return nil, c.Err()
	}
	return no, nil
}

// cut shortens s to at most that many bytes, at a character's end.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// printable replaces what could steer a terminal or forge a line of a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
