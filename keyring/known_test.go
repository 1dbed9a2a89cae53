package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/keystead/keystead"
)

// TestKnownAnswers derives, confirms and wraps as docs/spec/keys.md says, written out
// anew, and compares with what was recorded.
func TestKnownAnswers(t *testing.T) {
	domain := keystead.Sum([]byte("domain"))
	id := keystead.Sum([]byte("opening"))
	contributions := [][]byte{bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)}
	p := KeyPurpose("storage", 7)
	purpose := append([]byte{2, 0, 7}, "storage\x00\x00\x00\x00\x00\x00\x00\x07"...)
	s, err := derive(id, p, contributions)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := hkdf.Key(sha256.New, append(contributions[0], contributions[1]...), id[:], "keystead secret/1\n"+string(purpose), 32)
	if !bytes.Equal(s.Encode(), want) || hex.EncodeToString(want) != recordedSecret {
		t.Errorf("secret %x, as specified %x, recorded %s", s.Encode(), want, recordedSecret)
	}
	confirm, err := s.confirm(domain, p)
	if err != nil {
		t.Fatal(err)
	}
	want, _ = hkdf.Expand(sha256.New, s.Encode(), "keystead confirm/1\n"+string(domain[:])+string(purpose), 32)
	if !bytes.Equal(confirm[:], want) || confirm.String() != recordedConfirm {
		t.Errorf("confirmation %v, as specified %x, recorded %s", confirm, want, recordedConfirm)
	}
	under := newSecret(bytes.Repeat([]byte{3}, 32))
	wrapped, err := under.wrap(domain, 5, p, s)
	if err != nil {
		t.Fatal(err)
	}
	k, _ := hkdf.Expand(sha256.New, under.Encode(), "keystead wrap/1\n"+string(domain[:])+"\x01\x00\x00\x00\x00\x00\x00\x00\x05"+string(purpose)+string(confirm[:]), 32)
	block, _ := aes.NewCipher(k)
	box, _ := cipher.NewGCM(block)
	if want := box.Seal(nil, make([]byte, 12), s.Encode(), nil); !bytes.Equal(wrapped, want) || hex.EncodeToString(want) != recordedWrapped {
		t.Errorf("wrapped %x, as specified %x, recorded %s", wrapped, want, recordedWrapped)
	}
}

const (
	recordedSecret  = "d555004bd0b4624d33e40887590220490c75977e90edd899469a60bd01b3c7ec"
	recordedConfirm = "sha256:6b9ac09375cb1bdb1d3ccb45ff79f46c8605684638a7a918ed59b739263f8d1f"
	recordedWrapped = "d0783e922916f8de2a89ab95e782fe37a891818492127293c699b37c72075851975e9437933457b9bc8cd7653b98ae21"
)
