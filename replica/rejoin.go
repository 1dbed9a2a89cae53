package replica

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// Asked is a member's own word that it gives up its id for a fresh one: it has lost its
// memory, or was started anew. Without it any member could put another out of the group.
type Asked struct {
	Public    []byte `cbor:"1,keyasint"` // SubjectPublicKeyInfo of the member's key
	Signature []byte `cbor:"2,keyasint"` // ECDSA P-256 over SHA-256, ASN.1
}

// AskedMessage is what a member signs to give up an id, for itself under a key, at a start and an address.
func AskedMessage(gives uint64, key keystead.Digest, boot [16]byte, address string) []byte {
	b := binary.BigEndian.AppendUint64([]byte("keystead rejoin/1\n"), gives)
	b = append(append(b, key[:]...), boot[:]...)
	return cursor.AppendSized16(b, address)
}

// Sign signs a message by the node's key.
func (k *NodeKey) Sign(message []byte) (*Asked, error) {
	spki, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, k.private, sum[:])
	return &Asked{spki, sig}, err
}

// verify checks that the key of that digest signed the message.
func (a *Asked) verify(key keystead.Digest, message []byte) error {
	if a == nil || keystead.Sum(a.Public) != key {
		return unasked(key)
	}
	parsed, err := x509.ParsePKIXPublicKey(a.Public)
	public, ok := parsed.(*ecdsa.PublicKey)
	sum := sha256.Sum256(message)
	if err != nil || !ok || public.Curve != elliptic.P256() || !ecdsa.VerifyASN1(public, sum[:], a.Signature) {
		return unasked(key)
	}
	return nil
}

func unasked(key keystead.Digest) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonChangeRefused, Where: "remove", Want: "the word of the member that gives up its id, signed by " + key.String(), Got: "none"})
}

// Rejoins returns the member that a removal gives a fresh id, if the change adds its key
// again; and an error if that member did not ask for it.
func (c *Change) Rejoins(removed Member) (yes bool, err error) {
	for _, add := range c.Add {
		if add.Key == removed.Key {
			if add.Name != removed.Name {
				return true, keystead.Deny(keystead.Finding{Reason: keystead.ReasonChangeRefused, Where: "add", Want: "the member's name, " + removed.Name, Got: add.Name})
			}
			return true, c.Asked.verify(add.Key, AskedMessage(removed.ID, add.Key, add.Boot, add.Address))
		}
	}
	return false, nil
}

// explained asks the state machine whether what it knows explains a change.
func (s *Store) explained(members *Membership, c *Change) error {
	if s.opts.Explain == nil {
		return nil
	}
	return s.opts.Explain(View{s.db}, members, c)
}

// answers are what members say to who asks for an id, by their key.
type answers map[keystead.Digest]JoinReply

// agreed returns the id that so many members gave, or 0.
func (a answers) agreed(need int) uint64 {
	count := map[uint64]int{}
	for _, r := range a {
		if r.ID == 0 {
			continue
		}
		if count[r.ID]++; count[r.ID] >= need {
			return r.ID
		}
	}
	return 0
}

// waiting returns how many members wait for an id themselves.
func (a answers) waiting() (n int) {
	for _, r := range a {
		if r.Waits {
			n++
		}
	}
	return n
}

// Joining is how a node fares that waits for an id.
type Joining struct {
	Waiting int // members that say that they wait for one themselves
	Serving int // members whose answer was that of a group that works
}

// serves reports whether an answer to who asks for an id is that of a member of a group which
// has a leader.
func serves(reply JoinReply, err error) bool {
	var deny *keystead.DenyError
	if err == nil {
		return reply.ID != 0
	}
	return errors.As(err, &deny) && deny.Stage() != keystead.StageUnavailable && !errors.Is(err, keystead.ReasonNotMember)
}

// few says what is missing, for the log.
func (a answers) few(need int) error {
	ids := []uint64{}
	for _, r := range a {
		if r.ID != 0 {
			ids = append(ids, r.ID)
		}
	}
	slices.Sort(ids)
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "join", Want: fmt.Sprintf("one id from %d members", need),
		Got: fmt.Sprintf("ids %v, and %d members that wait for one themselves", ids, a.waiting())})
}
