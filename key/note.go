package key

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/mod/sumdb/note"

	"github.com/keystead/keystead"
)

// A Kind is the first line of a signed text: what it is, and by which version of
// the format. Members sign no other kinds.
type Kind string

// The kinds, each with its specification.
const (
	KindPolicy  Kind = "keystead-policy/1"  // docs/spec/policy.md
	KindCodeSet Kind = "keystead-codeset/1" // docs/spec/codeset.md
	KindBootSet Kind = "keystead-codeset/2" // docs/spec/codeset.md: boots by packages
	KindLongSet Kind = "keystead-codeset/3" // docs/spec/codeset.md: digests of SHA-384
	KindGenesis Kind = "keystead-genesis/1" // docs/spec/ledger.md
	KindRoster  Kind = "keystead-roster/1"  // docs/spec/ledger.md

	KindRecovery Kind = "keystead-recovery/1" // docs/spec/ledger.md

	// Statements, docs/spec/statements.md.
	KindSetting   Kind = "keystead-setting/1"
	KindObject    Kind = "keystead-object/1"
	KindTerms     Kind = "keystead-terms/1"
	KindEnrolment Kind = "keystead-enrolment/1"
	KindDenial    Kind = "keystead-denial/1"
	KindKeyspec   Kind = "keystead-key/1" // docs/spec/keys.md

	KindServiceKey Kind = "keystead-key/2" // docs/spec/keys.md: for a service

	// Contracts, docs/spec/contract.md. Users sign calls as members do.
	KindContract Kind = "keystead-contract/1"
	KindUser     Kind = "keystead-user/1"
	KindCall     Kind = "keystead-call/1"

	KindReading Kind = "keystead-reading/1" // docs/spec/archive.md
)

var kinds = []Kind{KindPolicy, KindCodeSet, KindBootSet, KindLongSet, KindGenesis, KindRoster, KindRecovery, KindSetting, KindObject, KindTerms, KindEnrolment, KindDenial, KindKeyspec, KindServiceKey, KindReading, KindContract, KindUser, KindCall}

// Bounds of what is signed and opened, in bytes: a text, and the note with it.
const (
	MaxText = 16 << 20
	MaxNote = MaxText + 64<<10
)

// signatureBlock is what parts a note's text from its signatures.
var signatureBlock = []byte("\n\n— ")

// Sign returns the text as a note signed by m. The text is valid UTF-8 without
// control characters, starts with a Kind's line, ends with a newline, and holds no
// line that looks like a signature.
func (m Member) Sign(text []byte) ([]byte, error) {
	return m.sign(&note.Note{Text: string(text)})
}

// Cosign adds m's signature to a note, and keeps those that stand there. It does
// not say whether they are any good: Open does.
func (m Member) Cosign(signed []byte) ([]byte, error) {
	n, err := split(signed, "note")
	if err != nil {
		return nil, err
	}
	return m.sign(n)
}

func (m Member) sign(n *note.Note) ([]byte, error) {
	if m.signer == nil {
		return nil, errors.New("sign: the key is empty")
	}
	if err := checkText(n.Text); err != nil {
		return nil, err
	}
	return note.Sign(n, m.signer)
}

// Open returns the text of a note that at least one accepted key signed, and the
// accepted keys that did. Signatures of strangers are passed over; they never
// suffice. A note that is unsigned, altered, or of another kind gives a DenyError
// with note-unsigned; bytes that are no note give a FormatError.
func Open(signed []byte, kind Kind, accepted ...MemberPublic) (text []byte, by []MemberPublic, err error) {
	var verifiers []note.Verifier
	ids := map[string]MemberPublic{}
	for _, p := range accepted {
		if _, twice := ids[p.ID()]; p == (MemberPublic{}) || twice {
			continue
		}
		v, err := note.NewVerifier(p.text)
		if err != nil {
			return nil, nil, fmt.Errorf("accepted key %s: %w", p.ID(), err)
		}
		ids[p.ID()] = p
		verifiers = append(verifiers, v)
	}
	raw, err := split(signed, kind, accepted...)
	if err != nil {
		return nil, nil, err
	}
	n, err := note.Open(signed, note.VerifierList(verifiers...))
	var forged *note.InvalidSignatureError
	switch unverified := (*note.UnverifiedNoteError)(nil); {
	case errors.As(err, &unverified):
		return nil, nil, unsigned(kind, accepted, "signatures of "+strings.Join(signers(raw), ", "))
	case errors.As(err, &forged):
		return nil, nil, unsigned(kind, accepted, "a signature under the name of "+id(forged.Name, forged.Hash)+" that is not by that key over this text")
	case err != nil:
		return nil, nil, formatError(signed, err.Error())
	}
	if first, _, _ := strings.Cut(n.Text, "\n"); first != string(kind) {
		return nil, nil, unsigned(kind, accepted, fmt.Sprintf("a signed text of kind %.40q", first))
	}
	if err := checkText(n.Text); err != nil {
		return nil, nil, err
	}
	for _, s := range n.Sigs {
		by = append(by, ids[id(s.Name, s.Hash)])
	}
	return []byte(n.Text), by, nil
}

// OneOf returns which of the kinds a note says that it is; the first of them if none. Open finds
// out whether it is.
func OneOf(signed []byte, kinds ...Kind) Kind {
	for _, k := range kinds {
		if bytes.HasPrefix(signed, []byte(k+"\n")) {
			return k
		}
	}
	return kinds[0]
}

// Peek returns the text of a note and the NAME+HASH of its signatures without
// checking any. It is for showing; nothing that it returns is believed.
func Peek(signed []byte) (text []byte, by []string, err error) {
	n, err := split(signed, "note")
	if err != nil {
		return nil, nil, err
	}
	return []byte(n.Text), signers(n), nil
}

// IsNote reports whether the text has a block of signatures at its end.
func IsNote(text []byte) bool {
	i := bytes.LastIndex(text, []byte("\n\n"))
	return i >= 0 && bytes.HasPrefix(text[i:], signatureBlock)
}

// split parses a note by letting signed-note open it without any key; kind and
// accepted serve the refusal.
func split(signed []byte, kind Kind, accepted ...MemberPublic) (*note.Note, error) {
	if len(signed) > MaxNote {
		return nil, formatError(nil, fmt.Sprintf("is %d bytes long, at most %d are accepted", len(signed), MaxNote))
	}
	if !IsNote(signed) {
		return nil, unsigned(kind, accepted, "a text without signatures")
	}
	_, err := note.Open(signed, nil)
	var unverified *note.UnverifiedNoteError
	if !errors.As(err, &unverified) {
		return nil, formatError(signed, err.Error())
	}
	return unverified.Note, nil
}

func unsigned(kind Kind, accepted []MemberPublic, got string) error {
	want := "a signature by an accepted key"
	if len(accepted) > 0 {
		var ids []string
		for _, p := range accepted {
			ids = append(ids, p.ID())
		}
		want = "a signature by " + strings.Join(ids, " or ")
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoteUnsigned, Where: string(kind), Want: want, Got: got})
}

func signers(n *note.Note) (out []string) {
	for _, s := range slices.Concat(n.Sigs, n.UnverifiedSigs) {
		out = append(out, id(s.Name, s.Hash))
	}
	return out
}

func id(name string, hash uint32) string { return fmt.Sprintf("%.64s+%08x", name, hash) }

// formatError names the block of signatures: the text above it is any text.
func formatError(signed []byte, problem string) error {
	at := max(0, bytes.LastIndex(signed, []byte("\n\n")))
	return &keystead.FormatError{Format: "note", Offset: int64(at), Field: "signatures", Problem: problem}
}

// checkText holds signed texts to what every reader sees alike: a known first
// line, printable characters, and no line that passes for a signature.
func checkText(text string) error {
	fail := func(off int, field, format string, args ...any) error {
		return &keystead.FormatError{Format: "note", Offset: int64(off), Field: field, Problem: fmt.Sprintf(format, args...)}
	}
	if len(text) > MaxText {
		return fail(0, "whole", "is %d bytes long, at most %d are accepted", len(text), MaxText)
	}
	if first, _, _ := strings.Cut(text, "\n"); !slices.Contains(kinds, Kind(first)) {
		return fail(0, "first line", "is %.40q, want one of %q", first, kinds)
	}
	if !strings.HasSuffix(text, "\n") {
		return fail(len(text), "end", "does not end with a newline")
	}
	if i := strings.Index(text, "\n— "); i >= 0 {
		return fail(i+1, "text", "has a line that starts like a signature")
	}
	for i, r := range text {
		if r != '\n' && (!unicode.IsPrint(r) || r == unicode.ReplacementChar) {
			return fail(i, "text", "has the character %U, which not every reader sees", r)
		}
	}
	return nil
}
