package receipt

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/key"
)

// A Certificate is the word of a node's TPM that the node's next key is its own. A
// rekey carries one for each node whose key it changes and whose TPM the roster
// names, so that no majority of nodes brings in a key without that TPM.
type Certificate struct {
	Node          string
	Certification *tpm2.Certification
}

// KeyBinding is what the TPM of a node certifies: this key for the node of that name,
// in the change of this domain that follows the entry of digest after.
func KeyBinding(domain, after keystead.Digest, node string, k key.NodePublic) evidence.Binding {
	h := sha256.New()
	h.Write([]byte("keystead rekey/1\n"))
	h.Write(domain[:])
	h.Write(after[:])
	h.Write([]byte(node))
	return evidence.Binding{Purpose: evidence.PurposeNodeKey, Nonce: h.Sum(nil), SubjectKey: k[:]}
}

// certificates appends the lines of a rekey's certificates, or says what is wrong
// with them.
func (c *Change) certificates(b []byte) (_ []byte, problem string) {
	if len(c.Certificates) > 0 && !c.Rekey {
		return b, "members vouch for keys by their signature; only a rekey carries certificates"
	}
	slices.SortFunc(c.Certificates, func(x, y Certificate) int { return strings.Compare(x.Node, y.Node) })
	for i, x := range c.Certificates {
		switch {
		case !validName(x.Node) || x.Certification == nil:
			return b, fmt.Sprintf("an empty certificate, or one of node %.80q", x.Node)
		case i > 0 && c.Certificates[i-1].Node == x.Node:
			return b, "two certificates of node " + x.Node
		}
		b = append(b, "certify "+x.Node+" "...)
		b = append(base64.StdEncoding.AppendEncode(b, x.Certification.Bytes()), '\n')
	}
	return b, ""
}

// certificates reads the lines of a rekey's certificates.
func (l *lines) certificates() (out []Certificate) {
	for l.err == nil && bytes.HasPrefix(l.rest, []byte("certify ")) && len(out) <= maxNodes {
		name, text, _ := strings.Cut(l.value("certify"), " ")
		if len(text) > base64.StdEncoding.EncodedLen(tpm2.MaxCertification) {
			l.fail("certify", fmt.Sprintf("%d characters are too many", len(text)))
			break
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			l.fail("certify", err.Error())
			break
		}
		c, err := tpm2.ParseCertification(raw)
		if err != nil {
			l.fail("certify", err.Error())
		}
		out = append(out, Certificate{name, c})
	}
	return out
}

// verifyCertificates checks that each node whose key changes, and whose TPM the
// roster before names, shows that TPM's certification of the new key, and no other
// node any.
func (c *Change) verifyCertificates(old *Roster, where string) error {
	left := slices.Clone(c.Certificates)
	for i, n := range c.Roster.Nodes { // by name, as old.Nodes
		was := old.Nodes[i]
		at := slices.IndexFunc(left, func(x Certificate) bool { return x.Node == n.Name })
		wanted := n.Key != was.Key && !was.AK.None()
		switch {
		case !wanted && at < 0:
			continue
		case !wanted:
			return deny(keystead.ReasonRosterBroken, where+", node "+n.Name, "no certificate, for a key that does not change or a node without a TPM", "one")
		case at < 0:
			return deny(keystead.ReasonEvidenceMissing, where+", node "+n.Name, "a certificate of the new key by "+was.AK.String(), "none")
		}
		_, err := left[at].Certification.Verify(was.AK, KeyBinding(c.Domain, c.After, n.Name, n.Key))
		if err != nil {
			return placed(err, where+", node "+n.Name)
		}
		left = slices.Delete(left, at, at+1)
	}
	if len(left) > 0 {
		return deny(keystead.ReasonRosterBroken, where, "certificates of nodes of the roster", "one of "+left[0].Node)
	}
	return nil
}

// placed says of a refusal which part of the roster it is about.
func placed(err error, where string) error {
	var d *keystead.DenyError
	if !errors.As(err, &d) {
		return err
	}
	findings := slices.Clone(d.Findings)
	for i := range findings {
		findings[i].Where = where + ", " + findings[i].Where
	}
	return keystead.Deny(findings...)
}
