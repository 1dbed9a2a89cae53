package keyring

import (
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// ForgeCommit returns a node's commit to other bytes, signed by it.
func ForgeCommit(domain keystead.Digest, signer *key.Node, b []byte) []byte {
	m, err := parseCommit(b)
	if err != nil {
		panic(err)
	}
	m.commitment[0] ^= 1
	m.signature = signer.Sign(append(label("round-commit", domain), m.body()...))
	return m.bytes()
}

// ForgeReveal returns a node's reveal whose seals do not open, signed by it.
func ForgeReveal(domain keystead.Digest, signer *key.Node, b []byte) []byte {
	return forgeReveal(domain, signer, b, func(m *reveal) {
		for i, s := range m.sealed {
			m.sealed[i] = append([]byte(nil), s...)
			m.sealed[i][len(s)-1] ^= 1
		}
	})
}

// CutReveal returns a node's reveal without its seals, signed by it.
func CutReveal(domain keystead.Digest, signer *key.Node, b []byte) []byte {
	return forgeReveal(domain, signer, b, func(m *reveal) { m.sealed = nil })
}

func forgeReveal(domain keystead.Digest, signer *key.Node, b []byte, change func(*reveal)) []byte {
	m, err := parseReveal(b)
	if err != nil {
		panic(err)
	}
	change(&m)
	m.signature = signer.Sign(append(label("round-reveal", domain), m.body()...))
	return m.bytes()
}

// RevealOther returns a reveal of other bytes than the round committed to, sealed and
// signed as a good one is.
func (r *Round) RevealOther(st State) []byte {
	other := *r
	committed := commitment(r.id, r.ring.node, r.contribution)
	other.contribution = append([]byte(nil), r.contribution...)
	other.contribution[0] ^= 1
	b, err := other.revealAs(st, committed)
	if err != nil {
		panic(err)
	}
	return b
}

// ParseMessages parses as every message, for the fuzzer: each that parses has one encoding.
func ParseMessages(b []byte) (encodings [][]byte) {
	if m, err := parseCommit(b); err == nil {
		encodings = append(encodings, m.bytes())
	}
	if m, err := parseReveal(b); err == nil {
		encodings = append(encodings, m.bytes())
	}
	return encodings
}

// ScalarOf reduces 48 bytes to a scalar of secp256k1.
func ScalarOf(seed []byte) []byte { return scalarOf(seed) }
