package keyring_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/keyring"
)

// billing is an application that may have keys for billing.
var billing = keyring.Application{Level: keyring.LevelMeasured, Digest: "sha256:00", Name: "billing/eu", UID: 33}

// released returns what the nodes release of a key for billing.
func (w *world) released(name string, version uint64) []byte {
	w.t.Helper()
	var first []byte
	for _, n := range w.members() {
		g, err := n.ring.Release(w.board, &keyring.Ask{Lease: lease{}, Claims: verdict("test"), Key: name, Version: version, Application: billing}, 1000)
		if err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
		b := g.Secret().Encode()
		if first == nil {
			first = b
		}
		if !bytes.Equal(b, first) {
			w.t.Errorf("%s releases another %s", n.name, name)
		}
	}
	return first
}

// TestAlgorithms has nodes agree on a key of each algorithm, and uses what they release with
// the public half that stands in the record.
func TestAlgorithms(t *testing.T) {
	w := newWorld(t, 81, 3)
	w.agree()
	for _, a := range keyring.Algorithms() {
		w.demand(string(a), 1, func(s *keyring.Spec) {
			s.Service = &keyring.Service{Algorithm: a, Use: keyring.UseRelease, Application: "billing"}
		})
	}
	w.agree()
	for _, a := range keyring.Algorithms() {
		w.demand(string(a), 2, func(s *keyring.Spec) {
			s.Service = &keyring.Service{Algorithm: a, Use: keyring.UseRelease, Application: "billing"}
		})
	}
	w.agree()
	seen := map[string]bool{}
	for _, a := range keyring.Algorithms() {
		for number := uint64(1); number <= 2; number++ {
			private := w.released(string(a), number)
			if len(private) != keyring.SecretSize || seen[string(private)] {
				t.Errorf("%s version %d: %d bytes, or another key's", a, number, len(private))
			}
			seen[string(private)] = true
			v, _, err := keyring.At(w.board, string(a), number)
			if err != nil {
				t.Fatal(err)
			}
			if err := fits(a, private, v.Public); err != nil {
				t.Errorf("%s version %d: %v", a, number, err)
			}
		}
	}
}

// fits uses a private half against a public one.
func fits(a keyring.Algorithm, private, public []byte) error {
	other := errors.New("the public half is another key's")
	switch a {
	case keyring.AlgorithmSecret:
		if public != nil {
			return errors.New("it has a public half")
		}
	case keyring.AlgorithmEd25519:
		if !ed25519.Verify(public, []byte("x"), ed25519.Sign(ed25519.NewKeyFromSeed(private), []byte("x"))) {
			return other
		}
	case keyring.AlgorithmX25519, keyring.AlgorithmMLKEM768:
		kem := hpke.MLKEM768X25519()
		if a == keyring.AlgorithmX25519 {
			kem = hpke.DHKEM(ecdh.X25519())
		}
		to, err := kem.NewPublicKey(public)
		if err != nil {
			return err
		}
		sealed, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), nil, []byte("x"))
		if err != nil {
			return err
		}
		k, err := kem.NewPrivateKey(private)
		if err != nil {
			return err
		}
		if got, err := hpke.Open(k, hpke.HKDFSHA256(), hpke.AES256GCM(), nil, sealed); err != nil || string(got) != "x" {
			return other
		}
	case keyring.AlgorithmSecp256k1:
		if n := new(big.Int).SetBytes(private); n.Sign() == 0 || n.Cmp(secp256k1.Params().N) >= 0 {
			return errors.New("it is no scalar")
		}
		if !bytes.Equal(secp256k1.PrivKeyFromBytes(private).PubKey().SerializeCompressed(), public) {
			return other
		}
	}
	return nil
}

// TestScalar reduces by other arithmetic.
func TestScalar(t *testing.T) {
	n := secp256k1.Params().N
	for what, seed := range map[string][]byte{
		"zero": make([]byte, 48), "the greatest": bytes.Repeat([]byte{0xff}, 48), "a pattern": bytes.Repeat([]byte{0xa5, 0x01, 0x7f}, 16),
		"the order": append(make([]byte, 16), n.Bytes()...),
	} {
		want := new(big.Int).Mod(new(big.Int).SetBytes(seed), n)
		if want.Sign() == 0 {
			want.SetInt64(1)
		}
		if got := new(big.Int).SetBytes(keyring.ScalarOf(seed)); got.Cmp(want) != 0 {
			t.Errorf("%s: %x, want %x", what, got, want)
		}
	}
}

// TestServiceKeys asks for keys that are for another service, for nobody, and above the level;
// and hands in specifications and versions that nodes must not endorse.
func TestServiceKeys(t *testing.T) {
	w := newWorld(t, 82, 3)
	w.agree()
	service := func(a keyring.Algorithm, u keyring.Use, name string) func(*keyring.Spec) {
		return func(s *keyring.Spec) {
			s.Level, s.Service = keyring.LevelMeasured, &keyring.Service{Algorithm: a, Use: u, Application: name}
		}
	}
	w.demand("orders", 1, service(keyring.AlgorithmEd25519, keyring.UseRelease, "billing"))
	w.demand("inner", 1, service(keyring.AlgorithmSecret, keyring.UseDerive, "*"))
	w.demand("open", 1, service(keyring.AlgorithmSecret, keyring.UseRelease, "*"))
	w.agree()
	ring := w.nodes["n2"].ring
	for what, x := range map[string]struct {
		key  string
		app  keyring.Application
		want keystead.Reason
	}{
		"another service":                 {"orders", keyring.Application{Level: "measured", Digest: "sha256:00", Name: "bookkeeping"}, keystead.ReasonApplicationMismatch},
		"a name that only begins so":      {"orders", keyring.Application{Level: "measured", Digest: "sha256:00", Name: "billing-eu"}, keystead.ReasonApplicationMismatch},
		"a parent of the name":            {"orders", keyring.Application{Level: "measured", Digest: "sha256:00", Name: "bill"}, keystead.ReasonApplicationMismatch},
		"the host itself":                 {"orders", keyring.Application{}, keystead.ReasonApplicationMismatch},
		"a program without a name":        {"open", keyring.Application{Level: "measured", Digest: "sha256:00", Path: "/x"}, keystead.ReasonLevelLow},
		"a level below":                   {"orders", keyring.Application{Level: "peer", Digest: "sha256:00", Name: "billing"}, keystead.ReasonLevelLow},
		"a key that nodes derive from":    {"inner", billing, keystead.ReasonRuleFailed},
		"a level that is not one, a name": {"orders", keyring.Application{Level: "root", Digest: "sha256:00", Name: "billing"}, keystead.ReasonLevelLow},
	} {
		if g, err := ring.Release(w.board, &keyring.Ask{Lease: lease{}, Claims: verdict("test"), Key: x.key, Application: x.app}, 1000); !errors.Is(err, x.want) || !g.Secret().IsZero() {
			t.Errorf("%s: want %s, got %v", what, x.want, err)
		}
	}
	w.released("orders", 1)

	if _, err := w.specify("orders", 2, service(keyring.AlgorithmX25519, keyring.UseRelease, "billing")); !errors.Is(err, keystead.ReasonRuleFailed) {
		t.Errorf("another algorithm: %v", err)
	}
	if _, err := w.specify("orders", 2, nil); !errors.Is(err, keystead.ReasonRuleFailed) {
		t.Errorf("a secret in place of a key pair: %v", err)
	}
	delete(w.board.judged, "key/orders")
	delete(w.board.judged, "key/orders/1")
	w.demand("orders", 1, service(keyring.AlgorithmEd25519, keyring.UseRelease, "billing"))
	o := w.open()[0]
	w.run(&o)
	v, _ := keyring.Newest(w.board, "orders")
	delete(w.board.judged, "key/orders")
	delete(w.board.judged, "key/orders/1")
	if _, err := ring.JudgeKey(w.board, &w.at, "orders", v.Bytes()); err != nil {
		t.Fatal(err)
	}
	for what, public := range map[string][]byte{"the liar's public half": make([]byte, 32), "no public half": nil, "a longer one": append(bytes.Clone(v.Public), 0)} {
		lie := v
		lie.Public = public
		if _, err := ring.JudgeKey(w.board, &w.at, "orders", lie.Bytes()); !errors.Is(err, keystead.ReasonAgreementMismatch) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestServiceText reads specifications that nobody writes.
func TestServiceText(t *testing.T) {
	s := keyring.Spec{Domain: keystead.Sum([]byte("d")), Name: "orders", Version: 1, Level: "measured", Policy: []byte("keystead-policy/1\nname any\nrules none\n"),
		Service: &keyring.Service{Algorithm: keyring.AlgorithmX25519, Use: keyring.UseRelease, Application: "billing/eu"}}
	text, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := keyring.ParseSpec(text); err != nil || *got.Service != *s.Service {
		t.Fatalf("%v: %v", got.Service, err)
	}
	for what, pair := range map[string][2]string{
		"an algorithm of nobody":       {"algorithm x25519", "algorithm rsa"},
		"a use of nobody":              {"use release", "use sell"},
		"no application":               {"application billing/eu", "application "},
		"an application of two stars":  {"application billing/eu", "application **"},
		"a hidden application":         {"application billing/eu", "application billing/.eu"},
		"an application with a gap":    {"application billing/eu", "application billing//eu"},
		"a long application":           {"application billing/eu", "application " + strings.Repeat("a", 129)},
		"lines out of order":           {"algorithm x25519\nuse release\n", "use release\nalgorithm x25519\n"},
		"version 1 with a service":     {"keystead-key/2\n", "keystead-key/1\n"},
		"version 3":                    {"keystead-key/2\n", "keystead-key/3\n"},
		"version 2 without an ending":  {"use release\n", ""},
		"version 2 without a service":  {"algorithm x25519\nuse release\napplication billing/eu\n", ""},
		"an application in upper case": {"application billing/eu", "application Billing"},
	} {
		bad := strings.Replace(string(text), pair[0], pair[1], 1)
		var format *keystead.FormatError
		if _, err := keyring.ParseSpec([]byte(bad)); bad == string(text) || !errors.As(err, &format) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
