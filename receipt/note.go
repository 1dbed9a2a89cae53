package receipt

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

func deny(r keystead.Reason, where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: r, Where: where, Want: want, Got: got})
}

// splitNote returns text and signature lines of an entry that is a signed note.
func splitNote(entry []byte, want Kind) (text, signatures []byte, err error) {
	k, body, err := Split(entry)
	switch {
	case err != nil:
		return nil, nil, err
	case k != want:
		return nil, nil, &keystead.FormatError{Format: want.String(), Offset: 1, Field: "kind", Problem: "is a " + k.String() + " entry"}
	case len(body) > maxNote:
		return nil, nil, &keystead.FormatError{Format: want.String(), Field: "note", Problem: fmt.Sprintf("%d bytes, at most %d are accepted", len(body), maxNote)}
	}
	i := bytes.LastIndex(body, []byte("\n\n"))
	if i < 0 {
		return nil, nil, &keystead.FormatError{Format: want.String(), Field: "note", Problem: "has no blank line before its signatures"}
	}
	return body[:i+1], body[i+2:], nil
}

// verifyMembers checks that the entry's note is signed by the threshold of members.
func verifyMembers(entry []byte, kind Kind, r *Roster, where string) error {
	var known []note.Verifier
	for _, m := range r.Members {
		v, err := note.NewVerifier(m.String())
		if err != nil {
			return &keystead.FormatError{Format: kind.String(), Field: "member", Problem: err.Error()}
		}
		known = append(known, v)
	}
	_, _, err := splitNote(entry, kind)
	if err != nil {
		return err
	}
	return openNote(entry[HeaderSize:], known, r.Threshold, keystead.ReasonThresholdMissing, where, "members")
}

// verifyNodes checks that a note is signed by a majority of the roster's nodes.
func verifyNodes(signed []byte, r *Roster, where string) error {
	known := make([]note.Verifier, len(r.Nodes))
	for i, n := range r.Nodes {
		known[i] = nodeVerifier{n}
	}
	return openNote(signed, known, r.Majority(), keystead.ReasonMajorityMissing, where, "nodes")
}

// openNote counts the distinct signatures by known keys. A bad signature under a
// known name refuses the note; strangers' signatures count for nothing, as
// C2SP signed-note has it, but are named when too few are left.
func openNote(signed []byte, known []note.Verifier, need int, short keystead.Reason, where, who string) error {
	n, err := note.Open(signed, note.VerifierList(known...))
	var forged *note.InvalidSignatureError
	var none *note.UnverifiedNoteError
	switch {
	case errors.As(err, &forged):
		return deny(keystead.ReasonSignatureInvalid, where, "a signature by "+forged.Name+" over this text", "another signature under that name")
	case errors.As(err, &none):
		n = none.Note
	case err != nil:
		return &keystead.FormatError{Format: "note", Field: where, Problem: err.Error()}
	}
	for _, s := range slices.Concat(n.Sigs, n.UnverifiedSigs) {
		// note.Open passes over unused bits of the last character.
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return &keystead.FormatError{Format: "note", Field: where, Problem: fmt.Sprintf("the signature of %.64s is not in its one spelling: %v", s.Name, err)}
		}
	}
	if len(n.Sigs) >= need {
		return nil
	}
	findings := []keystead.Finding{{Reason: short, Where: where,
		Want: fmt.Sprintf("signatures of %d of %d %s", need, len(known), who), Got: fmt.Sprintf("%d (%s)", len(n.Sigs), names(n.Sigs))}}
	for _, s := range n.UnverifiedSigs {
		findings = append(findings, keystead.Finding{Reason: keystead.ReasonSignerUnknown, Where: where, Got: fmt.Sprintf("a signature of %.64s+%08x, which is not among them", s.Name, s.Hash)})
	}
	return keystead.Deny(findings...)
}

func names(sigs []note.Signature) string {
	if len(sigs) == 0 {
		return "nobody"
	}
	var out []string
	for _, s := range sigs {
		out = append(out, s.Name)
	}
	return strings.Join(out, ", ")
}

// nodeVerifier lets a node's key check notes (C2SP signed-note, type Ed25519).
type nodeVerifier struct{ Node }

func (v nodeVerifier) Name() string    { return v.Node.Name }
func (v nodeVerifier) KeyHash() uint32 { return keyHash(v.Node.Name, v.Node.Key) }
func (v nodeVerifier) Verify(msg, sig []byte) bool {
	return len(sig) == len(key.NodeSignature{}) && v.Node.Key.Verify(msg, key.NodeSignature(sig))
}

func keyHash(name string, k key.NodePublic) uint32 {
	h := sha256.Sum256(append(append([]byte(name), '\n', 1), k[:]...))
	return binary.BigEndian.Uint32(h[:4])
}

// AppendSignature appends n's signature to a note as a line; the first one goes
// after a blank line, which the caller has written.
func AppendSignature(dst []byte, n Node, sig key.NodeSignature) []byte {
	raw := binary.BigEndian.AppendUint32(nil, keyHash(n.Name, n.Key))
	dst = append(dst, "— "+n.Name+" "...)
	dst = base64.StdEncoding.AppendEncode(dst, append(raw, sig[:]...))
	return append(dst, '\n')
}

// Origin returns the name of a domain as checkpoints and signed texts spell it:
// "keystead/" and the genesis digest in hex.
func Origin(domain keystead.Digest) string { return originPrefix + hex.EncodeToString(domain[:]) }

// ParseOrigin reads what Origin writes.
func ParseOrigin(s string) (keystead.Digest, error) {
	var l lines
	d := l.parseOrigin("domain", s)
	return d, l.err
}

const originPrefix = "keystead/"

// lines reads a text format of "word value" lines. The first error sticks.
type lines struct {
	format string
	rest   []byte
	off    int64 // bytes before rest
	err    error
}

func (l *lines) fail(field, problem string) {
	if l.err == nil {
		l.err = &keystead.FormatError{Format: l.format, Offset: l.off, Field: field, Problem: problem}
	}
}

// line returns the next line without its newline.
func (l *lines) line(field string) string {
	i := bytes.IndexByte(l.rest, '\n')
	if l.err != nil || i < 0 {
		l.fail(field, "is missing")
		return ""
	}
	s := string(l.rest[:i])
	if l.err == nil {
		l.rest, l.off = l.rest[i+1:], l.off+int64(i)+1
	}
	return s
}

func (l *lines) value(word string) string {
	s, ok := strings.CutPrefix(l.line(word), word+" ")
	if !ok {
		l.fail(word, "the line does not start with "+strconv.Quote(word+" "))
	}
	return s
}

func (l *lines) number(word string) uint64 { return l.decimal(word, l.value(word)) }

// decimal reads digits without sign or leading zeroes.
func (l *lines) decimal(field, s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		l.fail(field, fmt.Sprintf("%.40q is not a decimal number", s))
	}
	return n
}

func (l *lines) digest(word string) keystead.Digest {
	d, err := keystead.ParseDigest(l.value(word))
	if err != nil {
		l.fail(word, err.Error())
	}
	return d
}

func (l *lines) origin(word string) keystead.Digest { return l.parseOrigin(word, l.value(word)) }

func (l *lines) parseOrigin(field, s string) keystead.Digest {
	h, ok := strings.CutPrefix(s, originPrefix)
	d, err := keystead.ParseDigest("sha256:" + h)
	if !ok || err != nil {
		l.fail(field, fmt.Sprintf("%.80q is not %s and 64 hex digits", s, originPrefix))
	}
	return d
}

// hash reads 32 bytes in base64.
func (l *lines) hash(field, s string) (d keystead.Digest) {
	var buf [36]byte // as many as 48 characters could give
	if len(s) != base64.StdEncoding.EncodedLen(len(d)) {
		l.fail(field, fmt.Sprintf("%.60q is not 32 bytes in base64", s))
		return d
	}
	if n, err := base64.StdEncoding.Strict().Decode(buf[:], []byte(s)); err != nil || n != len(d) {
		l.fail(field, fmt.Sprintf("%.60q is not 32 bytes in base64", s))
		return d
	}
	return keystead.Digest(buf[:32])
}

// roster reads the lines of a roster.
func (l *lines) roster(r *Roster) {
	r.Threshold = int(min(l.number("threshold"), maxMembers+1))
	for l.err == nil && bytes.HasPrefix(l.rest, []byte("member ")) && len(r.Members) <= maxMembers {
		m, err := key.ParseMemberPublic([]byte(l.value("member")))
		if err != nil {
			l.fail("member", err.Error())
		}
		r.Members = append(r.Members, m)
	}
	for l.err == nil && bytes.HasPrefix(l.rest, []byte("node ")) && len(r.Nodes) <= maxNodes {
		name, text, _ := strings.Cut(l.value("node"), " ")
		text, ak, _ := strings.Cut(text, " ")
		n := Node{Name: name}
		var err error
		if n.Key, err = key.ParseNodePublic(text); err != nil {
			l.fail("node", err.Error())
		}
		if n.AK, err = key.ParseAKDigest(ak); err != nil {
			l.fail("node", err.Error())
		}
		r.Nodes = append(r.Nodes, n)
	}
}

// end fails if lines are left over.
func (l *lines) end() {
	if len(l.rest) > 0 {
		l.fail("end", fmt.Sprintf("%.40q is no line of a roster in this place, or one of more than %d members or %d nodes", l.rest, maxMembers, maxNodes))
	}
}
