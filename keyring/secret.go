package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/keystead/keystead"
)

// SecretSize is the number of bytes of an agreed secret, and of a contribution.
const SecretSize = 32

const (
	wrappedSize = SecretSize + 16 // AES-256-GCM
	redacted    = "[agreed secret]"
)

// Secret is an agreed secret: of an epoch, or a key of the domain. It can not be
// compared and is never printed; only Encode gives its bytes. The zero value opens and
// wraps nothing.
type Secret struct {
	_     [0]func()
	bytes *[SecretSize]byte
}

// newSecret copies the bytes, of which there are SecretSize.
func newSecret(b []byte) Secret {
	s := Secret{bytes: new([SecretSize]byte)}
	copy(s.bytes[:], b)
	return s
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.bytes == nil }

// Encode returns the secret's bytes, for whoever may have them; nil of the zero value.
func (s Secret) Encode() []byte {
	if s.bytes == nil {
		return nil
	}
	return append([]byte(nil), s.bytes[:]...)
}

// Format, LogValue, MarshalText and MarshalJSON never show the secret.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue: see Format.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText fails: a secret does not belong in a document.
func (s Secret) MarshalText() ([]byte, error) { return nil, errors.New(redacted + " is not encoded") }

// MarshalJSON fails likewise.
func (s Secret) MarshalJSON() ([]byte, error) { return s.MarshalText() }

func missing(what string) error {
	return deny(keystead.ReasonSecretMissing, what, "the secret of this node's epoch", "none")
}

// expand derives 32 bytes for one use (HKDF-Expand, RFC 5869).
func (s Secret) expand(info []byte) ([]byte, error) {
	if s.bytes == nil {
		return nil, missing("secret")
	}
	return hkdf.Expand(sha256.New, s.bytes[:], string(info), SecretSize)
}

// confirm returns the digest that confirms the secret: it is public, and tells nothing else.
func (s Secret) confirm(domain keystead.Digest, p Purpose) (d keystead.Digest, err error) {
	b, err := s.expand(p.append(label("confirm", domain)))
	copy(d[:], b)
	return d, err
}

// box returns the AEAD of one plaintext: info must name that plaintext and no other, so
// that one nonce is enough and all nodes come to the same bytes.
func (s Secret) box(info []byte) (cipher.AEAD, error) {
	k, err := s.expand(info)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal encrypts SecretSize bytes that info determines.
func (s Secret) seal(info, plain []byte) ([]byte, error) {
	box, err := s.box(info)
	if err != nil {
		return nil, err
	}
	return box.Seal(nil, make([]byte, box.NonceSize()), plain, nil), nil
}

// open decrypts what seal made; what names it in a refusal.
func (s Secret) open(info, sealed []byte, what string) ([]byte, error) {
	box, err := s.box(info)
	if err != nil {
		return nil, err
	}
	plain, err := box.Open(nil, make([]byte, box.NonceSize()), sealed, nil)
	if err != nil || len(plain) != SecretSize {
		return nil, deny(keystead.ReasonSealUnopened, what, "bytes that the secret opens", "others")
	}
	return plain, nil
}

// wrapInfo names a secret by its purpose and confirmation: the key that wraps it
// is for this one alone.
func wrapInfo(domain keystead.Digest, epoch uint64, p Purpose, confirm keystead.Digest) []byte {
	b := EpochPurpose(epoch).append(label("wrap", domain))
	return append(p.append(b), confirm[:]...)
}

// wrap encrypts a secret under that of an epoch: the same bytes on all nodes.
func (s Secret) wrap(domain keystead.Digest, epoch uint64, p Purpose, inner Secret) ([]byte, error) {
	confirm, err := inner.confirm(domain, p)
	if err != nil {
		return nil, err
	}
	return s.seal(wrapInfo(domain, epoch, p, confirm), inner.bytes[:])
}

// unwrap decrypts what wrap made, and holds it to its confirmation.
func (s Secret) unwrap(domain keystead.Digest, epoch uint64, p Purpose, confirm keystead.Digest, wrapped []byte) (Secret, error) {
	plain, err := s.open(wrapInfo(domain, epoch, p, confirm), wrapped, p.String())
	if err != nil {
		return Secret{}, err
	}
	inner := newSecret(plain)
	if got, err := inner.confirm(domain, p); err != nil || got != confirm {
		return Secret{}, deny(keystead.ReasonSealUnopened, p.String(), "the secret with the confirmation "+confirm.String(), got.String())
	}
	return inner, nil
}

// derive makes the secret of a round from its contributions, in the order of the
// nodes' names.
func derive(round keystead.Digest, p Purpose, contributions [][]byte) (Secret, error) {
	var all []byte
	for _, c := range contributions {
		all = append(all, c...)
	}
	b, err := hkdf.Key(sha256.New, all, round[:], string(p.append([]byte("keystead secret/1\n"))), SecretSize)
	if err != nil {
		return Secret{}, err
	}
	return newSecret(b), nil
}

// label starts what is signed, hashed or derived for one use, in one domain.
func label(use string, domain keystead.Digest) []byte {
	return append([]byte("keystead "+use+"/1\n"), domain[:]...)
}

func deny(r keystead.Reason, where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: r, Where: where, Want: want, Got: got})
}
