package tpm2_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence/tpm2"
)

// issued is the time at which the certificates of these tests hold.
var issued = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

var ekUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}

// issuer is a certificate authority of a test's own.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// newIssuer makes an authority certified by parent, or by itself.
func newIssuer(t *testing.T, name string, parent *issuer) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	self := &issuer{template, key}
	if parent == nil {
		parent = self
	}
	self.cert = parent.issue(t, template, key.Public())
	return self
}

func (i *issuer) issue(t *testing.T, template *x509.Certificate, key any) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = issued.AddDate(-1, 0, 0), issued.AddDate(1, 0, 0)
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, key, i.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// ekTemplate is an endorsement certificate after the TCG's profile: an empty
// subject, and the TPM's model in a critical subject alternative name.
func ekTemplate(t *testing.T) *x509.Certificate {
	t.Helper()
	name := func(oid asn1.ObjectIdentifier, value string) pkix.RelativeDistinguishedNameSET {
		return pkix.RelativeDistinguishedNameSET{{Type: oid, Value: value}}
	}
	dir, err := asn1.Marshal(pkix.RDNSequence{
		name(asn1.ObjectIdentifier{2, 23, 133, 2, 1}, "id:4B535444"),
		name(asn1.ObjectIdentifier{2, 23, 133, 2, 2}, "model 7"),
		name(asn1.ObjectIdentifier{2, 23, 133, 2, 3}, "id:00010002"),
	})
	if err != nil {
		t.Fatal(err)
	}
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: dir}})
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{
		UnknownExtKeyUsage:    ekUsage,
		BasicConstraintsValid: true,
		ExtraExtensions:       []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}},
	}
}

// endorsementKeys are the real keys of the live TPM that certificates are made for.
func endorsementKeys(t *testing.T) (ecc, rsa *tpm2.Public) {
	t.Helper()
	a := newAttacker(t)
	ecc = a.public(func(p *gotpm.TPMTPublic) { *p = gotpm.ECCEKTemplate })
	return ecc, a.public(func(p *gotpm.TPMTPublic) { *p = gotpm.RSAEKTemplate })
}

func TestVerifyEK(t *testing.T) {
	root := newIssuer(t, "root", nil)
	middle := newIssuer(t, "middle", root)
	stranger := newIssuer(t, "stranger", nil)
	ecc, rsa := endorsementKeys(t)
	certOf := func(by *issuer, key *tpm2.Public, edit func(*x509.Certificate)) *x509.Certificate {
		template := ekTemplate(t)
		edit(template)
		return by.issue(t, template, key.Key())
	}
	asIs := func(*x509.Certificate) {}
	good := certOf(middle, ecc, asIs)
	hardware := tpm2.Roots{Hardware: []*x509.Certificate{root.cert}}
	both := tpm2.Roots{Hardware: hardware.Hardware, Test: hardware.Hardware}
	helped := tpm2.Roots{Hardware: hardware.Hardware, Intermediates: []*x509.Certificate{middle.cert}}
	der := func(certs ...*x509.Certificate) (out [][]byte) {
		for _, c := range certs {
			out = append(out, c.Raw)
		}
		return out
	}
	direct := func(edit func(*x509.Certificate)) [][]byte { return der(certOf(root, ecc, edit)) }
	critical := pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}

	for _, tc := range []struct {
		name     string
		chain    [][]byte
		key      *tpm2.Public
		roots    tpm2.Roots
		at       time.Time
		reason   keystead.Reason // empty: accepted
		software bool
	}{
		{"chain with its intermediate", der(good, middle.cert), ecc, hardware, issued, "", false},
		{"intermediate known", der(good), ecc, helped, issued, "", false},
		{"RSA key", der(certOf(root, rsa, asIs)), rsa, hardware, issued, "", false},
		{"test root", direct(asIs), ecc, tpm2.Roots{Test: hardware.Hardware}, issued, "", true},
		{"root in both lists", direct(asIs), ecc, both, issued, "", true},
		{"intermediate missing", der(good), ecc, hardware, issued, keystead.ReasonEKUntrusted, false},
		{"EK of another authority", der(certOf(stranger, ecc, asIs), stranger.cert), ecc, hardware, issued, keystead.ReasonEKUntrusted, false},
		{"intermediates are no roots", der(good, middle.cert), ecc, tpm2.Roots{Intermediates: []*x509.Certificate{middle.cert, root.cert}}, issued, keystead.ReasonEKUntrusted, false},
		{"no roots", der(good, middle.cert, root.cert), ecc, tpm2.Roots{}, issued, keystead.ReasonEKUntrusted, false},
		{"expired", direct(asIs), ecc, hardware, issued.AddDate(2, 0, 0), keystead.ReasonEKUntrusted, false},
		{"not yet valid", direct(asIs), ecc, hardware, issued.AddDate(-2, 0, 0), keystead.ReasonEKUntrusted, false},
		{"no time", direct(asIs), ecc, hardware, time.Time{}, keystead.ReasonEKUntrusted, false},
		{"other usage", direct(func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}} }), ecc, hardware, issued, keystead.ReasonEKUntrusted, false},
		{"no usage", direct(func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }), ecc, hardware, issued, keystead.ReasonEKUntrusted, false},
		{"an authority's own certificate", direct(func(c *x509.Certificate) { c.IsCA = true }), ecc, hardware, issued, keystead.ReasonEKUntrusted, false},
		{"unknown critical extension", direct(func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, critical) }), ecc, hardware, issued, keystead.ReasonEKUntrusted, false},
		{"critical name that is none", direct(func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{0x30, 0x02, 0x84, 0x00} }), ecc, hardware, issued, keystead.ReasonEKUntrusted, false},
		{"no certificate", nil, ecc, hardware, issued, keystead.ReasonEKUntrusted, false},
		{"certificate of another key", direct(asIs), rsa, hardware, issued, keystead.ReasonEKMismatch, false},
		{"no key", direct(asIs), nil, hardware, issued, keystead.ReasonEKMismatch, false},
	} {
		id, err := tpm2.VerifyEK(tc.chain, tc.key, tc.roots, tc.at)
		if tc.reason != "" {
			demand(t, tc.name, err, tc.reason)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if id.Software != tc.software || id.Root != "CN=root" || id.Key != tc.key.Fingerprint() || id.Key.IsZero() ||
			id.Manufacturer != "id:4B535444" || id.Model != "model 7" || id.Version != "id:00010002" {
			t.Errorf("%s: got %+v", tc.name, id)
		}
	}
	_, err := tpm2.VerifyEK([][]byte{good.Raw[1:]}, ecc, hardware, issued)
	demandFormat(t, "not DER", err, "ek-certificate", "certificate 0")
	_, err = tpm2.VerifyEK(slices.Repeat(der(good), 9), ecc, hardware, issued)
	demandFormat(t, "long chain", err, "ek-certificate", "chain")
}

func TestParseCertificates(t *testing.T) {
	a, b := newIssuer(t, "a", nil).cert, newIssuer(t, "b", nil).cert
	var text bytes.Buffer
	for _, c := range []*x509.Certificate{a, b} {
		pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	for name, file := range map[string][]byte{"PEM": text.Bytes(), "DER": slices.Concat(a.Raw, b.Raw)} {
		got, err := tpm2.ParseCertificates(file)
		if err != nil || len(got) != 2 || !got[0].Equal(a) || !got[1].Equal(b) {
			t.Errorf("%s: want two certificates, got %v, %v", name, got, err)
		}
	}
	for name, file := range map[string][]byte{"text": []byte("no certificate"), "PEM of garbage": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"})} {
		if got, err := tpm2.ParseCertificates(file); err == nil {
			t.Errorf("%s: want an error, got %v", name, got)
		}
	}
}
