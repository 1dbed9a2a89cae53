package client

import (
	"crypto"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/svid"
)

// AuthorityKey is svid.AuthorityKey, under the name by which nodes know it.
func AuthorityKey(node string) string { return svid.AuthorityKey(node) }

// SignAuthority is svid.SignAuthority, under the name by which nodes know it.
func SignAuthority(k *key.Node, domain keystead.Digest, node string, der []byte) []byte {
	return svid.SignAuthority(k, domain, node, der)
}

// OpenAuthority is svid.OpenAuthority, under the name by which nodes know it.
func OpenAuthority(signed []byte, domain keystead.Digest, node receipt.Node) ([]byte, error) {
	return svid.OpenAuthority(signed, domain, node)
}

// SVIDKey is svid.OpenKey, under the name by which nodes know it.
func SVIDKey(public, proof []byte, domain keystead.Digest, host string, lease uint64) (crypto.PublicKey, error) {
	return svid.OpenKey(public, proof, domain, host, lease)
}
