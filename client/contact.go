package client

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

const (
	contactKind = "keystead-contact/1"
	maxContact  = 2048 // bytes
	maxFile     = 1 << 20
	maxContacts = 256
)

// A Contact is where a node is found and by which TLS key it is known there. The
// node signs it with the key that the domain's roster pins, so whoever hands it on
// needs no trust. An old contact leads nowhere, or to the same node.
type Contact struct {
	Name string
	Key  key.NodePublic
	AK   key.AKDigest    // of its TPM, or none
	TLS  keystead.Digest // of the SubjectPublicKeyInfo of the node's TLS key
	Peer string          // host:port for nodes
	API  string          // URL for clients
}

func (c *Contact) text() []byte {
	return fmt.Appendf(nil, "%s\nname %s\nkey %s\nattestation %s\ntls %s\npeer %s\napi %s\n", contactKind, c.Name, c.Key, c.AK, c.TLS, c.Peer, c.API)
}

// Node returns the node as a roster that names it has it.
func (c *Contact) Node() receipt.Node { return receipt.Node{Name: c.Name, Key: c.Key, AK: c.AK} }

// Sign returns the contact as signed text: seven lines, a blank one, and the
// signature in base64.
func (c *Contact) Sign(k *key.Node) []byte {
	sig := k.Sign(c.text())
	return fmt.Appendf(c.text(), "\nsignature %s\n", base64.StdEncoding.EncodeToString(sig[:]))
}

// OpenContact reads a signed contact and checks that the key in it signed it. That
// the key is the one of a node of the roster is for the caller to compare.
func OpenContact(signed []byte) (Contact, error) {
	bad := func(offset int, field, problem string) (Contact, error) {
		return Contact{}, &keystead.FormatError{Format: "contact", Offset: int64(offset), Field: field, Problem: problem}
	}
	if len(signed) > maxContact {
		return bad(0, "size", fmt.Sprintf("is %d bytes, at most %d are accepted", len(signed), maxContact))
	}
	text, tail, ok := bytes.Cut(signed, []byte("\n\nsignature "))
	b64, end := bytes.CutSuffix(tail, []byte("\n"))
	raw, err := base64.StdEncoding.Strict().DecodeString(string(b64))
	if !ok || !end || err != nil || len(raw) != len(key.NodeSignature{}) {
		return bad(len(text), "signature", "wants a blank line and then: signature, 64 bytes in base64")
	}
	lines := strings.Split(string(text), "\n")
	var value [7]string
	if len(lines) != len(value) || lines[0] != contactKind {
		return bad(0, "kind", "wants "+contactKind+" and six fields")
	}
	for i, field := range []string{"", "name", "key", "attestation", "tls", "peer", "api"} {
		if i > 0 {
			if value[i], ok = strings.CutPrefix(lines[i], field+" "); !ok {
				return bad(0, field, fmt.Sprintf("is not on line %d", i+1))
			}
		}
	}
	c := Contact{Name: value[1], Peer: value[5], API: value[6]}
	if c.Key, err = key.ParseNodePublic(value[2]); err != nil {
		return bad(0, "key", err.Error())
	}
	if c.AK, err = key.ParseAKDigest(value[3]); err != nil {
		return bad(0, "attestation", err.Error())
	}
	if c.TLS, err = keystead.ParseDigest(value[4]); err != nil {
		return bad(0, "tls", err.Error())
	}
	if _, _, err := net.SplitHostPort(c.Peer); err != nil {
		return bad(0, "peer", err.Error())
	}
	if !strings.HasPrefix(c.API, "https://") && !strings.HasPrefix(c.API, "http://") {
		return bad(0, "api", "wants an http:// or https:// URL")
	}
	if !c.Key.Verify(c.text(), key.NodeSignature(raw)) {
		return Contact{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: "contact of node " + c.Name,
			Want: "a signature by " + c.Key.String(), Got: "another signature"})
	}
	return c, nil
}

// A Domain is what a client, or a node before it is one, knows of a domain: a file
// that can be handed on in the open, since all of it follows from the genesis digest.
type Domain struct {
	Genesis  []byte   // signed note
	Contacts [][]byte // signed contacts
}

type domainJSON struct {
	Version  int      `json:"keystead-domain"`
	Genesis  string   `json:"genesis"`
	Contacts []string `json:"contacts"`
}

// Encode returns the file's content.
func (d *Domain) Encode() []byte {
	j := domainJSON{Version: 1, Genesis: string(d.Genesis)}
	for _, c := range d.Contacts {
		j.Contacts = append(j.Contacts, string(c))
	}
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		panic(err) // strings and an int always encode
	}
	return append(b, '\n')
}

// ParseDomain reads the file's content. It checks no signature.
func ParseDomain(raw []byte) (*Domain, error) {
	bad := func(field, problem string) (*Domain, error) {
		return nil, &keystead.FormatError{Format: "domain", Field: field, Problem: problem}
	}
	if len(raw) > maxFile {
		return bad("size", fmt.Sprintf("is %d bytes, at most %d are accepted", len(raw), maxFile))
	}
	var j domainJSON
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return bad("json", err.Error())
	}
	switch {
	case j.Version != 1:
		return bad("keystead-domain", fmt.Sprintf("is version %d, this build reads 1", j.Version))
	case len(j.Contacts) > maxContacts:
		return bad("contacts", fmt.Sprintf("are %d, at most %d are accepted", len(j.Contacts), maxContacts))
	}
	d := &Domain{Genesis: []byte(j.Genesis)}
	for _, c := range j.Contacts {
		d.Contacts = append(d.Contacts, []byte(c))
	}
	return d, nil
}
