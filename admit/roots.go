package admit

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/tpm2"
)

// rootsMagic is the first line of endorsement roots and carries the version. It only
// ever grows:
//
//	1  hardware, test, intermediate
const rootsMagic = "keystead-roots/1"

// Bounds of endorsement roots.
const (
	MaxRoots = 1 << 20 // bytes
	maxCerts = 256
)

// rootKinds are the lines that stand before a certificate, in order.
var rootKinds = [...]string{"hardware", "test", "intermediate"}

// FormatRoots returns the text of endorsement roots (docs/spec/roots.md): by kind, and
// by their bytes within one. It fails if the same certificate stands there twice.
func FormatRoots(r tpm2.Roots) ([]byte, error) {
	text := writeRoots(r)
	_, err := ParseRoots(text)
	return text, err
}

func writeRoots(r tpm2.Roots) []byte {
	b := []byte(rootsMagic + "\n")
	for i, certs := range [...][]*x509.Certificate{r.Hardware, r.Test, r.Intermediates} {
		certs = slices.Clone(certs)
		slices.SortFunc(certs, func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
		for _, c := range certs {
			b = append(b, rootKinds[i]+"\n"...)
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	return b
}

// ParseRoots reads endorsement roots. It fails with a *keystead.FormatError. Readers of
// PEM pass over the lines between certificates.
func ParseRoots(text []byte) (r tpm2.Roots, err error) {
	fail := func(field, format string, args ...any) (tpm2.Roots, error) {
		return tpm2.Roots{}, &keystead.FormatError{Format: "roots", Field: field, Problem: fmt.Sprintf(format, args...)}
	}
	if len(text) > MaxRoots {
		return fail("whole", "is %d bytes long, at most %d are accepted", len(text), MaxRoots)
	}
	rest, ok := bytes.CutPrefix(text, []byte(rootsMagic+"\n"))
	if !ok {
		return fail("first line", "is not %s", rootsMagic)
	}
	seen := map[keystead.Digest]bool{}
	for n := 0; len(rest) > 0; n++ {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		kind := slices.Index(rootKinds[:], string(line))
		block, tail := pem.Decode(after)
		switch {
		case kind < 0:
			return fail(fmt.Sprintf("certificate %d", n), "%.40q is none of %v", line, rootKinds)
		case block == nil || block.Type != "CERTIFICATE":
			return fail(fmt.Sprintf("certificate %d", n), "no certificate in PEM follows")
		case n == maxCerts:
			return fail("whole", "has more than %d certificates", maxCerts)
		case seen[keystead.Sum(block.Bytes)]:
			return fail(fmt.Sprintf("certificate %d", n), "stands there twice")
		}
		seen[keystead.Sum(block.Bytes)] = true
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fail(fmt.Sprintf("certificate %d", n), "%v", err)
		}
		list := [...]*[]*x509.Certificate{&r.Hardware, &r.Test, &r.Intermediates}[kind]
		*list, rest = append(*list, c), tail
	}
	if len(seen) == 0 {
		return fail("whole", "has no certificate")
	}
	if !bytes.Equal(writeRoots(r), text) {
		return fail("text", "is not in its one canonical spelling")
	}
	return r, nil
}
