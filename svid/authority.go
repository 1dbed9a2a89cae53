package svid

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

const (
	authorityKind = "keystead-authority/1"
	maxAuthority  = 4096 // bytes
)

// AuthorityKey returns the ledger's key under which a node publishes the authority by which
// it issues SVIDs.
func AuthorityKey(node string) string { return "svid/" + node }

// authorityText is what a node signs of its authority.
func authorityText(domain keystead.Digest, node string, der []byte) []byte {
	return fmt.Appendf(nil, "%s\ndomain %s\nnode %s\ncertificate %s\n", authorityKind, receipt.Origin(domain), node, base64.StdEncoding.EncodeToString(der))
}

// SignAuthority returns the certificate of a node's authority (DER) as it is published: with
// the node's signature.
func SignAuthority(k *key.Node, domain keystead.Digest, node string, der []byte) []byte {
	text := authorityText(domain, node, der)
	sig := k.Sign(text)
	return fmt.Appendf(text, "\nsignature %s\n", base64.StdEncoding.EncodeToString(sig[:]))
}

// OpenAuthority returns the certificate (DER) that a node of that key signed, for the domain.
func OpenAuthority(signed []byte, domain keystead.Digest, node receipt.Node) ([]byte, error) {
	bad := func(problem string) ([]byte, error) {
		return nil, &keystead.FormatError{Format: "authority", Field: "text", Problem: problem}
	}
	if len(signed) > maxAuthority {
		return bad("is too long")
	}
	text, tail, ok := bytes.Cut(signed, []byte("\n\nsignature "))
	sig, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(string(tail), "\n"))
	if !ok || err != nil || len(sig) != len(key.NodeSignature{}) {
		return bad("wants a blank line and a signature in base64")
	}
	_, encoded, _ := bytes.Cut(text, []byte("\ncertificate "))
	der, err := base64.StdEncoding.Strict().DecodeString(string(encoded))
	if err != nil {
		return bad("wants a certificate in base64")
	}
	want := authorityText(domain, node.Name, der)
	if !bytes.Equal(want, append(text, '\n')) {
		return bad("is not in its one spelling, or of another domain or node")
	}
	if !node.Key.Verify(want, key.NodeSignature(sig)) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: "authority of node " + node.Name, Want: "a signature by " + node.Key.String(), Got: "another"})
	}
	return der, nil
}
