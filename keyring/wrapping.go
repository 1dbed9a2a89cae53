package keyring

import (
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/key"
)

// Sizes of HPKE with ML-KEM-768 and X25519, HKDF-SHA-256 and AES-256-GCM, in bytes.
const (
	wrappingSize = 1184 + 32 // public key
	sealedSize   = 1088 + 32 + wrappedSize
)

// Wrapping is a node's private key to which contributions are sealed. A node makes a
// new one at every start and keeps it in memory only, so what was sealed to it
// opens for nobody later. It can not be compared and is never printed.
type Wrapping struct {
	_      [0]func()
	secret hpke.PrivateKey
}

// NewWrapping makes a key of the next 32 bytes of random.
func NewWrapping(random io.Reader) (*Wrapping, error) {
	seed := make([]byte, 32)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("keyring: randomness for a wrapping key: %w", err)
	}
	k, err := hpke.MLKEM768X25519().NewPrivateKey(seed)
	return &Wrapping{secret: k}, err
}

// Format prints no part of the key, whatever the verb.
func (w *Wrapping) Format(f fmt.State, _ rune) { io.WriteString(f, "[wrapping key of a node]") }

// public returns the public half.
func (w *Wrapping) public() []byte { return w.secret.PublicKey().Bytes() }

func (w *Wrapping) open(info, sealed []byte) ([]byte, error) {
	if w == nil || w.secret == nil {
		return nil, errors.New("no wrapping key")
	}
	return hpke.Open(w.secret, hpke.HKDFSHA256(), hpke.AES256GCM(), info, sealed)
}

// sealTo encrypts to a public key that parse has checked.
func sealTo(public, info, plain []byte) ([]byte, error) {
	k, err := hpke.MLKEM768X25519().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	return hpke.Seal(k, hpke.HKDFSHA256(), hpke.AES256GCM(), info, plain)
}

// Announcement is what a node says of itself: its wrapping key, and the epoch whose
// secret it does not have. It stands at NodeKey on the ledger.
type Announcement struct {
	Node      string
	Lacks     uint64 // number of the epoch that was current and whose secret it lacks; 0: it lacks nothing
	Wrapping  []byte // HPKE public key
	Signature key.NodeSignature
}

// NodeKey is where a node's announcement stands on the ledger.
func NodeKey(node string) string { return NodePrefix + node }

func (a *Announcement) message(domain keystead.Digest) []byte {
	return append(label("wrapping", domain), a.body()...)
}

func (a *Announcement) body() []byte {
	b := cursor.AppendSized16(header(kindAnnouncement), a.Node)
	b = binary.BigEndian.AppendUint64(b, a.Lacks)
	return cursor.AppendSized16(b, a.Wrapping)
}

// Bytes returns the one encoding.
func (a *Announcement) Bytes() []byte { return append(a.body(), a.Signature[:]...) }

// ParseAnnouncement reads an announcement; it checks no signature.
func ParseAnnouncement(b []byte) (a Announcement, err error) {
	c := start("announcement", kindAnnouncement, b)
	a.Node, a.Lacks = name(c, "node"), c.U64("lacks")
	a.Wrapping = c.Sized16(wrappingSize, "wrapping key")
	if c.Err() == nil {
		if _, err := hpke.MLKEM768X25519().NewPublicKey(a.Wrapping); err != nil {
			c.Fail("wrapping key", "is not one of ML-KEM-768 with X25519")
		}
	}
	a.Signature = signature(c)
	c.End()
	return a, c.Err()
}

// Verify checks that the key signed it, for the domain.
func (a *Announcement) Verify(k key.NodePublic, domain keystead.Digest) error {
	return verify(k, a.message(domain), a.Signature, "announcement", a.Node)
}
