package tpm2

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"testing"
	"time"
)

// TestSteadyTimes holds the times against the ends of certificates' validity: at and
// between them verification says the same, and just outside of them it may not.
func TestSteadyTimes(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	der := func(from, till time.Time) []byte {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: till}
		b, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	parsed, err := x509.ParseCertificate(der(noon.Add(-time.Hour), noon.Add(2*time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	leaf := der(noon.Add(-2*time.Hour), noon.Add(time.Hour))
	for _, tc := range []struct{ at, from, till time.Time }{
		{noon, noon.Add(-time.Hour), noon.Add(time.Hour)},                                               // all are valid
		{noon.Add(time.Hour), noon.Add(-time.Hour), noon.Add(time.Hour)},                                // the last moment
		{noon.Add(90 * time.Minute), noon.Add(time.Hour + time.Nanosecond), noon.Add(2 * time.Hour)},    // the leaf is over
		{noon.Add(-90 * time.Minute), noon.Add(-2 * time.Hour), noon.Add(-time.Hour - time.Nanosecond)}, // the root has not begun
		{noon.Add(72 * time.Hour), noon.Add(48 * time.Hour), noon.Add(96 * time.Hour)},                  // all are over
		{noon.Add(-72 * time.Hour), noon.Add(-96 * time.Hour), noon.Add(-48 * time.Hour)},               // none has begun
	} {
		from, till, ok := SteadyTimes([][]byte{leaf}, Roots{Test: []*x509.Certificate{parsed}}, tc.at)
		if !ok || !from.Equal(tc.from) || !till.Equal(tc.till) {
			t.Errorf("at %v: %v to %v, %v; want %v to %v", tc.at, from, till, ok, tc.from, tc.till)
		}
	}
	if _, _, ok := SteadyTimes([][]byte{[]byte("no certificate")}, Roots{}, noon); ok {
		t.Error("a chain that does not parse has steady times")
	}
}
