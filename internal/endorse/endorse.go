// Package endorse checks the certificate chains and revocation lists by which vendors
// endorse trusted execution environments.
//
// A chain is one line of certificates, leaf first, whose last one is a root that the
// caller pinned by digest. No path is searched for, no system root counts and nothing is
// fetched, so two builds judge a chain alike.
package endorse

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// MaxChain bounds a chain, in certificates.
const MaxChain = 8

// ParsePEM reads a chain: certificates in PEM with nothing between them but white
// space, and NULs at the end. It fails with a *keystead.FormatError.
func ParsePEM(where string, b []byte) ([]*x509.Certificate, error) {
	fail := func(problem string, args ...any) ([]*x509.Certificate, error) {
		return nil, &keystead.FormatError{Format: "certificate-chain", Field: where, Problem: fmt.Sprintf(problem, args...)}
	}
	var der [][]byte
	for {
		b = bytes.Trim(b, "\x00 \t\r\n")
		if len(b) == 0 {
			break
		}
		if !bytes.HasPrefix(b, []byte("-----BEGIN CERTIFICATE-----")) {
			return fail("holds something else than certificates in PEM")
		}
		block, rest := pem.Decode(b)
		if block == nil || len(block.Headers) > 0 || block.Type != "CERTIFICATE" {
			return fail("holds PEM that does not decode")
		}
		if len(der) == MaxChain {
			return fail("has more than %d certificates", MaxChain)
		}
		der, b = append(der, block.Bytes), rest
	}
	if len(der) == 0 {
		return fail("has no certificate")
	}
	return ParseDER(where, der)
}

// ParseDER reads a chain of DER certificates.
func ParseDER(where string, der [][]byte) (certs []*x509.Certificate, err error) {
	if len(der) > MaxChain {
		return nil, &keystead.FormatError{Format: "certificate-chain", Field: where, Problem: fmt.Sprintf("has %d certificates, at most %d are accepted", len(der), MaxChain)}
	}
	for i, b := range der {
		c, err := x509.ParseCertificate(b)
		if err != nil {
			return nil, &keystead.FormatError{Format: "certificate-chain", Field: fmt.Sprintf("%s, certificate %d", where, i), Problem: err.Error()}
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// A Root is the pinned root that a chain led to.
type Root struct {
	Digest keystead.Digest // of its DER
	Test   bool            // pinned for tests
}

// Verify checks that the chain, leaf first, is one line of signatures to a pinned root
// and that each certificate is valid at that time. The leaf is no authority, and has no
// critical extension that is not understood. A refusal is vendor-untrusted.
func Verify(where string, chain []*x509.Certificate, roots evidence.VendorRoots, at time.Time) (Root, error) {
	refuse := func(want, got string) (Root, error) {
		return Root{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonVendorUntrusted, Where: where, Want: want, Got: got})
	}
	if len(chain) < 2 || len(chain) > MaxChain {
		return refuse(fmt.Sprintf("a chain of 2 to %d certificates", MaxChain), fmt.Sprintf("%d", len(chain)))
	}
	if chain[0].IsCA {
		return refuse("a leaf that certifies no others", chain[0].Subject.String())
	}
	for i, c := range chain {
		if at.Before(c.NotBefore) || at.After(c.NotAfter) {
			return refuse(fmt.Sprintf("certificates that are valid on %s", at.UTC().Format(time.RFC3339)),
				fmt.Sprintf("%q, valid from %s to %s", c.Subject, c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339)))
		}
		if len(c.UnhandledCriticalExtensions) > 0 {
			return refuse("no critical extension that is not understood", fmt.Sprintf("%v of %q", c.UnhandledCriticalExtensions[0], c.Subject))
		}
		above := chain[min(i+1, len(chain)-1)]
		if err := issued(c, above, i); err != nil {
			return refuse(fmt.Sprintf("a signature by %q", above.Subject), fmt.Sprintf("%q: %v", c.Subject, err))
		}
	}
	last := keystead.Sum(chain[len(chain)-1].Raw)
	switch {
	case slices.Contains(roots.Hardware, last):
		return Root{last, false}, nil
	case slices.Contains(roots.Test, last):
		return Root{last, true}, nil
	}
	return refuse(fmt.Sprintf("one of %d pinned roots", len(roots.Hardware)+len(roots.Test)), fmt.Sprintf("%q, %v", chain[len(chain)-1].Subject, last))
}

// issued checks that above signed c, below which lie so many certificates.
func issued(c, above *x509.Certificate, below int) error {
	if !bytes.Equal(c.RawIssuer, above.RawSubject) {
		return fmt.Errorf("names %q as its issuer", c.Issuer)
	}
	if above.MaxPathLen >= 0 && above.BasicConstraintsValid && (above.MaxPathLen > 0 || above.MaxPathLenZero) && !bytes.Equal(c.Raw, above.Raw) && below > above.MaxPathLen {
		return fmt.Errorf("stands deeper below %q than that allows", above.Subject)
	}
	return c.CheckSignatureFrom(above)
}

// CheckRevoked checks that a list, DER or PEM, is the issuer's and current, and does not
// name the certificate. Refusals are collateral-invalid, collateral-expired and key-revoked.
func CheckRevoked(where string, list []byte, issuer, cert *x509.Certificate, at time.Time) error {
	refuse := func(r keystead.Reason, want, got string) error {
		return keystead.Deny(keystead.Finding{Reason: r, Where: where, Want: want, Got: got})
	}
	if block, _ := pem.Decode(list); block != nil {
		list = block.Bytes
	}
	crl, err := x509.ParseRevocationList(list)
	if err != nil {
		return refuse(keystead.ReasonCollateralInvalid, "a revocation list (RFC 5280)", err.Error())
	}
	if err := crl.CheckSignatureFrom(issuer); err != nil || !bytes.Equal(crl.RawIssuer, issuer.RawSubject) {
		return refuse(keystead.ReasonCollateralInvalid, fmt.Sprintf("a list that %q signed", issuer.Subject), fmt.Sprintf("one of %q: %v", crl.Issuer, err))
	}
	for _, r := range crl.RevokedCertificateEntries { // first: a key that was revoked stays so, however old the list
		if r.SerialNumber.Cmp(cert.SerialNumber) == 0 {
			return refuse(keystead.ReasonKeyRevoked, fmt.Sprintf("a certificate that %q did not revoke", issuer.Subject),
				fmt.Sprintf("%q, serial %x, revoked %s", cert.Subject, cert.SerialNumber, r.RevocationTime.UTC().Format(time.RFC3339)))
		}
	}
	return Current(where, crl.ThisUpdate, crl.NextUpdate, at)
}

// Worst returns what weighs most of what was found of several keys and lists: that one was
// revoked, else the first error. Policies may spare the others.
func Worst(errs []error) (worst error) {
	for _, err := range errs {
		if err != nil && (worst == nil || errors.Is(err, keystead.ReasonKeyRevoked) && !errors.Is(worst, keystead.ReasonKeyRevoked)) {
			worst = err
		}
	}
	return worst
}

// Current refuses collateral that is not yet or no longer good: collateral-expired.
func Current(where string, from, till, at time.Time) error {
	if at.Before(from) || at.After(till) {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonCollateralExpired, Where: where,
			Want: "collateral for " + at.UTC().Format(time.RFC3339),
			Got:  fmt.Sprintf("from %s to %s", from.UTC().Format(time.RFC3339), till.UTC().Format(time.RFC3339))})
	}
	return nil
}
