package tpm2

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keystead/keystead"
)

// maxChain bounds an endorsement certificate's chain.
const maxChain = 8

// Object identifiers of endorsement key certificates (RFC 5280; TCG EK Credential
// Profile for TPM 2.0, 3.2).
var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	oidManufacturer   = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel          = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion        = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

// Roots are the certificate authorities whose endorsement certificates count. The
// zero value accepts nothing.
type Roots struct {
	Hardware      []*x509.Certificate // of TPM manufacturers and clouds
	Test          []*x509.Certificate // of software TPMs; wins over Hardware where both hold
	Intermediates []*x509.Certificate // help to build chains and are not trusted by themselves
}

// EKIdentity is the TPM that an endorsement certificate names.
type EKIdentity struct {
	Key          keystead.Digest // of the endorsement key, as PKIX DER: the TPM's identity
	Issuer       string          // of the certificate, as a distinguished name (RFC 2253)
	IssuerKey    keystead.Digest // of that issuer's public key, as PKIX DER
	Root         string          // of the chain, a distinguished name
	Manufacturer string          // as the certificate has it: id:53544D20
	Model        string
	Version      string // of the firmware at the time of manufacture
	Software     bool   // the root is one for software TPMs
}

// ParseCertificates reads PEM or concatenated DER, as roots are kept in files.
func ParseCertificates(b []byte) ([]*x509.Certificate, error) {
	if block, _ := pem.Decode(b); block == nil {
		return x509.ParseCertificates(b)
	}
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return out, nil
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, cert)
	}
}

// VerifyEK checks that chain (DER, the endorsement certificate first) leads to one
// of the roots at that time, is for endorsement keys, and certifies ek. It fails
// with ek-untrusted or ek-mismatch, or a *keystead.FormatError for DER that does
// not parse.
func VerifyEK(chain [][]byte, ek *Public, roots Roots, at time.Time) (*EKIdentity, error) {
	certs, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	leaf := certs[0]
	if err := checkEKProfile(leaf); err != nil {
		return nil, untrusted("a certificate after the TCG EK Credential Profile", err.Error())
	}
	above, root, test, err := roots.verify(certs, at)
	if err != nil {
		n := len(roots.Hardware) + len(roots.Test)
		return nil, untrusted(fmt.Sprintf("a chain to one of the %d configured roots, valid on %s", n, at.UTC().Format(time.RFC3339)),
			fmt.Sprintf("certificate issued by %q: %v", leaf.Issuer, err))
	}
	if !ek.Certified(leaf) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonEKMismatch, Where: "EK certificate",
			Want: "the certificate of endorsement key " + ek.Fingerprint().String(), Got: "one of " + keystead.Sum(leaf.RawSubjectPublicKeyInfo).String()})
	}
	id := &EKIdentity{Key: ek.Fingerprint(), Issuer: leaf.Issuer.String(), IssuerKey: keystead.Sum(above.RawSubjectPublicKeyInfo), Root: root.Subject.String(), Software: test}
	id.describe(leaf)
	return id, nil
}

func untrusted(want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonEKUntrusted, Want: want, Got: got, Where: "EK certificate"})
}

func parseChain(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, untrusted("an EK certificate", "none")
	}
	if len(chain) > maxChain {
		return nil, &keystead.FormatError{Format: "ek-certificate", Field: "chain", Problem: fmt.Sprintf("has %d certificates, at most %d are accepted", len(chain), maxChain)}
	}
	var certs []*x509.Certificate
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, &keystead.FormatError{Format: "ek-certificate", Field: fmt.Sprintf("certificate %d", i), Problem: err.Error()}
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// checkEKProfile checks that the certificate is for an endorsement key, and takes
// the subject alternative name off the list of extensions that crypto/x509 did not
// understand: its content, the TPM's model, is read here.
func checkEKProfile(leaf *x509.Certificate) error {
	if leaf.IsCA {
		return errors.New("a certificate authority's own")
	}
	if !slices.ContainsFunc(leaf.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return errors.New("extended key usage without tcg-kp-EKCertificate (2.23.133.8.1)")
	}
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(leaf.UnhandledCriticalExtensions, func(id asn1.ObjectIdentifier) bool {
		return id.Equal(oidSubjectAltName) && tpmName(leaf) != nil
	})
	return nil
}

// verify returns the certificate above the first one, the root that the chain leads
// to, and whether it is one for tests. A leaf that is a root itself is its own issuer.
func (r Roots) verify(certs []*x509.Certificate, at time.Time) (above, root *x509.Certificate, test bool, err error) {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}} // checkEKProfile looked for the one that counts
	if at.IsZero() {
		opts.CurrentTime = time.Unix(0, 0) // zero would mean now: this room has no clock
	}
	for _, c := range slices.Concat(r.Hardware, r.Test) {
		opts.Roots.AddCert(c)
	}
	for _, c := range slices.Concat(certs[1:], r.Intermediates) {
		opts.Intermediates.AddCert(c)
	}
	chains, err := certs[0].Verify(opts)
	if err != nil {
		return nil, nil, false, err
	}
	for _, chain := range chains {
		above, root = chain[min(1, len(chain)-1)], chain[len(chain)-1]
		if slices.ContainsFunc(r.Test, root.Equal) {
			return above, root, true, nil
		}
	}
	return above, root, false, nil
}

// Certified reports whether the certificate is of this key.
func (p *Public) Certified(cert *x509.Certificate) bool {
	if p == nil {
		return false
	}
	switch key := p.key.(type) {
	case *ecdsa.PublicKey:
		return key.Equal(cert.PublicKey)
	case *rsa.PublicKey:
		return key.Equal(cert.PublicKey)
	}
	return false
}

// Fingerprint returns the digest of the key as PKIX DER, which names an
// endorsement key; zero for the zero Public.
func (p *Public) Fingerprint() keystead.Digest {
	if p == nil || p.key == nil {
		return keystead.Digest{}
	}
	der, err := x509.MarshalPKIXPublicKey(p.key)
	if err != nil {
		return keystead.Digest{}
	}
	return keystead.Sum(der)
}

// tpmName returns the directory name in the subject alternative name, or nil.
func tpmName(cert *x509.Certificate) *pkix.RDNSequence {
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidSubjectAltName) {
			continue
		}
		var names []asn1.RawValue // GeneralNames (RFC 5280, 4.2.1.6)
		if rest, err := asn1.Unmarshal(ext.Value, &names); err != nil || len(rest) > 0 {
			return nil
		}
		for _, n := range names {
			var rdn pkix.RDNSequence
			if n.Class != asn1.ClassContextSpecific || n.Tag != 4 { // directoryName
				continue
			}
			if rest, err := asn1.Unmarshal(n.Bytes, &rdn); err == nil && len(rest) == 0 {
				return &rdn
			}
		}
	}
	return nil
}

func (id *EKIdentity) describe(leaf *x509.Certificate) {
	rdns := tpmName(leaf)
	if rdns == nil {
		return
	}
	for _, set := range *rdns {
		for _, attr := range set {
			value, _ := attr.Value.(string)
			switch {
			case attr.Type.Equal(oidManufacturer):
				id.Manufacturer = value
			case attr.Type.Equal(oidModel):
				id.Model = value
			case attr.Type.Equal(oidVersion):
				id.Version = value
			}
		}
	}
}
