package key

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

// NodeSeedSize is the number of random bytes that a node key is made of.
const NodeSeedSize = ed25519.SeedSize

// Node is the signing key of a node: it signs ticks, endorsements, checkpoints,
// messages of key agreement and the node's next key, and nothing else. A node makes a new one at every
// boot. The key can not be compared, copied out or printed.
type Node struct {
	_      [0]func()
	secret ed25519.PrivateKey
}

// NodePublic is the public half of a [Node] key.
type NodePublic [ed25519.PublicKeySize]byte

// NodeSignature is an Ed25519 signature (RFC 8032) by a [Node] key.
type NodeSignature [ed25519.SignatureSize]byte

// NewNode makes a key of the next NodeSeedSize bytes of random. The same bytes
// give the same key, so a domain that trusts its disks may keep them.
func NewNode(random io.Reader) (*Node, error) {
	seed := make([]byte, NodeSeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, fmt.Errorf("key: randomness for a node key: %w", err)
	}
	k := &Node{secret: ed25519.NewKeyFromSeed(seed)}
	clear(seed)
	return k, nil
}

// Public returns the public half.
func (k *Node) Public() NodePublic { return NodePublic(k.secret.Public().(ed25519.PublicKey)) }

// Sign signs message. Every message that a node signs opens with a label of its
// purpose, so that none can stand for another.
func (k *Node) Sign(message []byte) NodeSignature {
	return NodeSignature(ed25519.Sign(k.secret, message))
}

// Format prints the public half whatever the verb, so that no log line can hold the secret.
func (k *Node) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "node key %s", k.Public()) }

// Verify reports whether signature is by this key over message.
func (p NodePublic) Verify(message []byte, signature NodeSignature) bool {
	return ed25519.Verify(p[:], message, signature[:])
}

const nodePublicPrefix = "node-ed25519:"

// ParseNodePublic reads the text form, and nothing else.
func ParseNodePublic(s string) (NodePublic, error) {
	t, ok := strings.CutPrefix(s, nodePublicPrefix)
	b, err := base64.StdEncoding.Strict().DecodeString(t)
	if !ok || err != nil || len(b) != ed25519.PublicKeySize {
		return NodePublic{}, errors.New("a node's public key is written " + nodePublicPrefix + " and 32 bytes in base64")
	}
	return NodePublic(b), nil
}

// String returns the text form: "node-ed25519:" and the key in base64.
func (p NodePublic) String() string {
	return nodePublicPrefix + base64.StdEncoding.EncodeToString(p[:])
}

// MarshalText returns the text form.
func (p NodePublic) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the text form.
func (p *NodePublic) UnmarshalText(b []byte) error {
	v, err := ParseNodePublic(string(b))
	if err == nil {
		*p = v
	}
	return err
}
