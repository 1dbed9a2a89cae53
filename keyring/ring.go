package keyring

import (
	"bytes"
	"encoding/binary"
	"io"
	"strconv"
	"sync"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// Ring is what a node holds of the domain's secrets: the secrets of epochs, and the
// wrapping key of this start. It is safe for concurrent use, can not be compared, and is
// never printed. It grants nothing without a secret.
type Ring struct {
	_        [0]func()
	domain   keystead.Digest
	node     string
	signer   Signer
	wrapping *Wrapping

	mu       sync.Mutex
	held     map[uint64]Secret          // by epoch; the newest is kept, older ones are unwrapped
	agreed   map[keystead.Digest]Secret // of epochs that are proposed, by confirmation
	policies policyCache
}

// A Signer signs as the node: a *key.Node, or whatever has the one of now.
type Signer interface {
	Sign(message []byte) key.NodeSignature
}

// maxAgreed bounds the secrets of proposed epochs that are kept.
const maxAgreed = 64

// NewRing returns the ring of the node of that name, with a wrapping key of the next
// bytes of random.
func NewRing(domain keystead.Digest, node string, signer Signer, random io.Reader) (*Ring, error) {
	w, err := NewWrapping(random)
	if err != nil {
		return nil, err
	}
	return &Ring{domain: domain, node: node, signer: signer, wrapping: w, held: map[uint64]Secret{}, agreed: map[keystead.Digest]Secret{}}, nil
}

// Announce returns what is to be written so that the others know this node's wrapping
// key and whether it lacks the secret of now; nil if the ledger says so already.
func (g *Ring) Announce(st State) (*Write, error) {
	now, err := Current(st)
	if err != nil {
		return nil, err
	}
	a := Announcement{Node: g.node, Wrapping: g.wrapping.public()}
	if !g.holds(&now) {
		a.Lacks = now.Number
	}
	a.Signature = g.signer.Sign(a.message(g.domain))
	there, err := st.Record(NodeKey(g.node))
	if err != nil || bytes.Equal(there.Data, a.Bytes()) {
		return nil, err
	}
	return &Write{NodeKey(g.node), a.Bytes()}, nil
}

// holds reports whether the ring has the epoch's secret. Before the first there is
// none to lack.
func (g *Ring) holds(e *Epoch) bool {
	if e.Number == 0 {
		return true
	}
	g.mu.Lock()
	s := g.held[e.Number]
	g.mu.Unlock()
	c, err := s.confirm(g.domain, EpochPurpose(e.Number))
	return err == nil && c == e.Confirm
}

// Holds reports whether the ring has the secret of the epoch of now.
func (g *Ring) Holds(st State) (bool, error) {
	now, err := Current(st)
	return err == nil && now.Number > 0 && g.holds(&now), err
}

// Settle takes up the secret of the epoch of now, if this node can know it, and
// reports whether it is new here, and so to be kept (Held).
func (g *Ring) Settle(st State) (bool, error) {
	now, err := Current(st)
	if err != nil || now.Number == 0 || g.holds(&now) {
		return false, err
	}
	g.mu.Lock()
	s := g.agreed[now.Confirm]
	g.mu.Unlock()
	if s.IsZero() {
		if s, err = g.recall(st, &now); err != nil {
			return false, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[now.Number] = s
	clear(g.agreed)
	return true, nil
}

// recall computes the secret of an epoch from the records of its round, while they
// are there.
func (g *Ring) recall(st State, e *Epoch) (Secret, error) {
	v, err := st.Record(e.Round.OpenKey())
	if err != nil {
		return Secret{}, err
	}
	none := deny(keystead.ReasonSecretMissing, EpochPurpose(e.Number).String(), "the records of its round, sealed to this node", "others, or none")
	if v.Version == 0 {
		return Secret{}, none
	}
	o, err := ParseOpening(v.Data)
	if err != nil {
		return Secret{}, err
	}
	if o.ID(g.domain) != e.Opening {
		return Secret{}, none
	}
	m, err := readMessages(st, &o)
	if err != nil {
		return Secret{}, err
	}
	s, err := g.combine(&o, e.Opening, m)
	if err != nil {
		return Secret{}, err
	}
	if c, err := s.confirm(g.domain, o.Purpose); err != nil || c != e.Confirm {
		return Secret{}, none
	}
	return s, nil
}

// Held returns the newest secret as bytes to be kept sealed, at most 64; nil if there
// is none. [Ring.Restore] reads them.
func (g *Ring) Held() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	var newest uint64
	for n := range g.held {
		newest = max(newest, n)
	}
	if newest == 0 {
		return nil
	}
	b := binary.BigEndian.AppendUint64(header(kindHeld), newest)
	return append(b, g.held[newest].bytes[:]...)
}

// Restore takes back what Held gave.
func (g *Ring) Restore(b []byte) error {
	c := start("held secret", kindHeld, b)
	n, s := c.U64("epoch"), c.Bytes(SecretSize, "secret")
	c.End()
	if c.Err() != nil {
		return c.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[n] = newSecret(s)
	return nil
}

// epochSecret returns the secret of an epoch: the one held, or unwrapped from that of
// the next, and so on from the newest.
func (g *Ring) epochSecret(st State, number uint64) (Secret, error) {
	e, err := epochAt(st, strconv.FormatUint(number, 10))
	if err != nil {
		return Secret{}, err
	}
	if e.Number != number || number == 0 {
		return Secret{}, deny(keystead.ReasonSecretMissing, EpochPurpose(number).String(), "an epoch that the domain had", "none")
	}
	if g.holds(&e) {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.held[number], nil
	}
	now, err := Current(st)
	if err != nil {
		return Secret{}, err
	}
	if number >= now.Number {
		return Secret{}, missing(EpochPurpose(number).String())
	}
	return g.unwrapDown(st, &now, number)
}

// unwrapDown walks from the epoch of now to an older one.
func (g *Ring) unwrapDown(st State, now *Epoch, number uint64) (Secret, error) {
	if !g.holds(now) {
		return Secret{}, missing(EpochPurpose(now.Number).String())
	}
	g.mu.Lock()
	s := g.held[now.Number]
	g.mu.Unlock()
	at := *now
	for at.Number > number {
		older, err := epochAt(st, strconv.FormatUint(at.Number-1, 10))
		if err != nil {
			return Secret{}, err
		}
		if s, err = s.unwrap(g.domain, at.Number, EpochPurpose(older.Number), older.Confirm, at.Older); err != nil {
			return Secret{}, err
		}
		at = older
		g.mu.Lock()
		g.held[at.Number] = s
		g.mu.Unlock()
	}
	return s, nil
}

// open returns the secret of a version of a key.
func (g *Ring) open(st State, v *Version) (Secret, error) {
	under, err := g.epochSecret(st, v.Epoch)
	if err != nil {
		return Secret{}, err
	}
	return under.unwrap(g.domain, v.Epoch, KeyPurpose(v.Name, v.Number), v.Confirm, v.Wrapped)
}
