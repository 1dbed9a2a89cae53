package keyring_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/keystead/keystead/keyring"
)

// FuzzParse gives every parser the same bytes: none may panic, and what is accepted has
// one encoding. Rings refuse what is not of their round.
func FuzzParse(f *testing.F) {
	w := newWorld(f, 91, 1)
	w.agree()
	w.demand("storage", 1, nil)
	w.demand("orders", 1, func(s *keyring.Spec) {
		s.Service = &keyring.Service{Algorithm: keyring.AlgorithmMLKEM768, Use: keyring.UseRelease, Application: "billing"}
	})
	w.agree()
	for _, v := range w.board.records {
		f.Add(v.Data)
	}
	for _, v := range w.board.judged {
		f.Add(v.Data)
	}
	f.Add(w.nodes["n1"].ring.Held())
	f.Add([]byte{1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		again := keyring.ParseMessages(b)
		if x, err := keyring.ParseAnnouncement(b); err == nil {
			again = append(again, x.Bytes())
		}
		if x, err := keyring.ParseOpening(b); err == nil {
			again = append(again, x.Bytes())
		}
		if x, err := keyring.ParseEpoch(b); err == nil {
			again = append(again, x.Bytes())
		}
		if x, err := keyring.ParseVersion(b); err == nil {
			again = append(again, x.Bytes())
		}
		if strings.HasPrefix(string(b), "keystead-key/") {
			if x, err := keyring.ParseSpec(b); err == nil {
				text, err := x.Text()
				if err != nil {
					t.Error(err)
				}
				again = append(again, text)
			}
		}
		for _, a := range again {
			if !bytes.Equal(a, b) {
				t.Errorf("two encodings: %x and %x", b, a)
			}
		}
	})
}
