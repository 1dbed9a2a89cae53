package svid_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/svid"
)

// TestPossession has a host show a key of its own, somebody else's, and what is none.
func TestPossession(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	domain := keystead.Sum([]byte("domain"))
	public, proof, err := svid.Prove(rand.Reader, k, domain, "web-1", 7)
	if err != nil {
		t.Fatal(err)
	}
	got, err := svid.OpenKey(public, proof, domain, "web-1", 7)
	if err != nil || !k.PublicKey.Equal(got) {
		t.Fatalf("got %v, %v", got, err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := x509.MarshalPKIXPublicKey(other.Public())
	if err != nil {
		t.Fatal(err)
	}
	for what, tc := range map[string]struct {
		public, proof []byte
		domain        keystead.Digest
		host          string
		lease         uint64
		want          keystead.Reason
	}{
		"another host's":     {public, proof, domain, "web-2", 7, keystead.ReasonSignatureInvalid},
		"another lease's":    {public, proof, domain, "web-1", 8, keystead.ReasonSignatureInvalid},
		"another domain's":   {public, proof, keystead.Sum(nil), "web-1", 7, keystead.ReasonSignatureInvalid},
		"without proof":      {public, nil, domain, "web-1", 7, keystead.ReasonSignatureInvalid},
		"of another curve":   {long, proof, domain, "web-1", 7, keystead.ReasonMalformed},
		"no key":             {[]byte{1}, proof, domain, "web-1", 7, keystead.ReasonMalformed},
		"too much":           {make([]byte, 1<<10), proof, domain, "web-1", 7, keystead.ReasonMalformed},
		"a signature of 1 K": {public, make([]byte, 1<<10), domain, "web-1", 7, keystead.ReasonMalformed},
	} {
		if _, err := svid.OpenKey(tc.public, tc.proof, tc.domain, tc.host, tc.lease); !errors.Is(err, tc.want) {
			t.Errorf("%s: want %s, got %v", what, tc.want, err)
		}
	}
}
