package process

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/keystead/keystead"
)

func report(t testing.TB, kem hpke.KEM) (Report, hpke.PrivateKey) {
	t.Helper()
	k, err := kem.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	r := Report{Key: "billing/db-1", Version: 7, Wrapping: k.PublicKey()}
	for i := range r.Challenge {
		r.Challenge[i] = byte(i)
	}
	r.Boot, err = ParseBootID("8f1b3c52-0a6d-4f0e-9f57-2d3c4b5a6978\n")
	if err != nil {
		t.Fatal(err)
	}
	return r, k
}

func TestReportRoundTrip(t *testing.T) {
	for _, kem := range KEMs() {
		r, _ := report(t, kem)
		raw, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Verify(raw, r.Challenge, r.Boot)
		if err != nil {
			t.Fatal(err)
		}
		if got.Key != r.Key || got.Version != r.Version || !bytes.Equal(got.Wrapping.Bytes(), r.Wrapping.Bytes()) || got.Wrapping.KEM().ID() != kem.ID() {
			t.Errorf("KEM %#x: got %+v", kem.ID(), got)
		}
		if got.Boot.String() != "8f1b3c52-0a6d-4f0e-9f57-2d3c4b5a6978" {
			t.Errorf("boot id %s", got.Boot)
		}
	}
}

// TestReportLayout holds the encoding to docs/spec/application.md, byte for byte.
func TestReportLayout(t *testing.T) {
	public, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(bytes.Repeat([]byte{9}, 32))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := Report{Key: "k", Version: 258, Wrapping: public, Boot: BootID{1, 2}, Challenge: [32]byte{3}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := hex.EncodeToString([]byte("keystead-application-report/1\n")) + "03" + strings.Repeat("00", 31) + "0102" + strings.Repeat("00", 14) +
		"0001" + "6b" + "0000000000000102" + "0020" + "0020" + strings.Repeat("09", 32)
	if got := hex.EncodeToString(raw); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if id := hpke.MLKEM768X25519().ID(); id != 0x647a {
		t.Errorf("ML-KEM-768 with X25519 is KEM %#x, the specification says 0x647a", id)
	}
}

func TestReportAnswersOneChallenge(t *testing.T) {
	r, _ := report(t, KEMs()[0])
	raw, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	other := r.Challenge
	other[31] ^= 1
	if _, err := Verify(raw, other, r.Boot); !errors.Is(err, keystead.ReasonReportReplayed) || errors.Is(err, keystead.ReasonReportForeign) {
		t.Errorf("another connection's challenge: got %v", err)
	}
	boot := r.Boot
	boot[0] ^= 1
	if _, err := Verify(raw, r.Challenge, boot); !errors.Is(err, keystead.ReasonReportForeign) || errors.Is(err, keystead.ReasonReportReplayed) {
		t.Errorf("another boot: got %v", err)
	}
	var deny *keystead.DenyError
	if _, err := Verify(raw, other, boot); !errors.As(err, &deny) || len(deny.Findings) != 2 {
		t.Errorf("both: got %v", err)
	}
}

func TestReportIsStrict(t *testing.T) {
	r, _ := report(t, KEMs()[1])
	raw, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	kem := len(raw) - 32 - 4
	for _, tc := range []struct {
		field string
		alter func([]byte) []byte
	}{
		{"magic", func(b []byte) []byte { b[28] = '2'; return b }},
		{"end", func(b []byte) []byte { return append(b, 0) }},
		{"wrapping key", func(b []byte) []byte { return b[:len(b)-1] }},
		{"wrapping key", func(b []byte) []byte { b[kem+1] = 0x10; return b }},
		{"wrapping key", func(b []byte) []byte { b[kem], b[kem+1] = 0x64, 0x7a; return b }},
		{"key name", func(b []byte) []byte { b[30+32+16+2] = ' '; return b }},
		{"key name", func(b []byte) []byte { b[30+32+16] = 1; return b }},
		{"size", func(b []byte) []byte { return append(b, make([]byte, MaxReport)...) }},
		{"magic", func([]byte) []byte { return nil }},
	} {
		_, err := Parse(tc.alter(bytes.Clone(raw)))
		var format *keystead.FormatError
		if !errors.As(err, &format) || format.Field != tc.field {
			t.Errorf("want an error in %q, got %v", tc.field, err)
		}
	}
	for name, bad := range map[string]Report{
		"no wrapping key": {Key: "k"},
		"no name":         {Wrapping: r.Wrapping},
		"long name":       {Key: strings.Repeat("k", 1<<17), Wrapping: r.Wrapping},
		"another KEM":     {Key: "k", Wrapping: p256(t)},
	} {
		var format *keystead.FormatError
		if _, err := bad.Encode(); !errors.As(err, &format) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func p256(t *testing.T) hpke.PublicKey {
	k, err := hpke.DHKEM(ecdh.P256()).GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k.PublicKey()
}

// TestAnswerIsBoundToTheReport shows that what was sealed for one report opens for no
// other, even under the same wrapping key.
func TestAnswerIsBoundToTheReport(t *testing.T) {
	r, k := report(t, KEMs()[0])
	raw, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	kdf, aead := Suite()
	sealed, err := hpke.Seal(r.Wrapping, kdf, aead, Info(raw), []byte("the key"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := hpke.Open(k, kdf, aead, Info(raw), sealed); err != nil || string(got) != "the key" {
		t.Fatalf("got %q, %v", got, err)
	}
	r.Version++
	if raw, err = r.Encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := hpke.Open(k, kdf, aead, Info(raw), sealed); err == nil {
		t.Error("opened as the answer to another report")
	}
}

func TestBootID(t *testing.T) {
	for _, bad := range []string{"", "8f1b3c52", "8f1b3c52-0a6d-4f0e-9f57-2d3c4b5a697", "8f1b3c52-0a6d-4f0e-9f57-2d3c4b5a697x", "8f1b3c520-a6d-4f0e-9f57-2d3c4b5a6978", strings.Repeat("-", 36)} {
		if id, err := ParseBootID(bad); err == nil {
			t.Errorf("%q: got %s", bad, id)
		}
	}
}

func TestLevels(t *testing.T) {
	if !(Level(0) < Peer && Peer < Measured && Measured < Launched) {
		t.Error("levels are not in order")
	}
	for _, l := range []Level{Peer, Measured, Launched} {
		text, _ := l.MarshalText()
		var got Level
		if err := got.UnmarshalText(text); err != nil || got != l {
			t.Errorf("%s: got %v, %v", l, got, err)
		}
	}
	for _, s := range []string{"", "none", "Peer", "peer "} {
		if l, err := ParseLevel(s); err == nil {
			t.Errorf("%q: got %v", s, l)
		}
	}
	if Level(-1).String() != "none" || Level(4).String() != "none" {
		t.Error("a value out of range has a level's name")
	}
}

func FuzzParse(f *testing.F) {
	for _, kem := range KEMs() {
		r, _ := report(f, kem)
		raw, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(raw[:len(raw)-1])
	}
	f.Add([]byte(reportMagic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := Parse(raw)
		if err != nil {
			var format *keystead.FormatError
			if !errors.As(err, &format) {
				t.Fatalf("not a FormatError: %v", err)
			}
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(again, raw) {
			t.Errorf("encodes as other bytes: %v", err)
		}
	})
}
