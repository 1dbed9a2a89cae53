// Package key holds one type for each purpose that a private key has.
//
// A member is an organisation with a say in a domain. Its key, [Member], signs the
// two kinds of text that members answer for: policies and code sets. A signed text
// is a note in the C2SP signed-note format, so it stays readable and takes
// signatures of several members. The first line of the text is its [Kind]; it is
// part of what is signed, so a signature under one kind is worthless as another.
//
// The package trusts the randomness that its caller passes in and the keys that its
// caller accepts. It keeps private keys from accidental disclosure: a Member cannot
// be compared, and no formatting, logging or encoding of it prints the key. Only
// [Member.Encode] does.
package key

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

const (
	maxName    = 64  // bytes of a member's name
	maxKeyText = 512 // bytes of either text form of a key

	privatePrefix = "PRIVATE+KEY+"
	algEd25519    = 1 // signed-note's signature type of Ed25519
	redacted      = "[private key of a member]"
)

// A Member is a member's private key (Ed25519), for policies and code sets only.
// The zero value signs nothing.
type Member struct {
	_      [0]func() // not comparable
	text   string    // signed-note's text form of the private key
	signer note.Signer
	public MemberPublic
}

// NewMember makes a key from 32 bytes of random. The name stands beside every
// signature; it is no authority by itself, the key is.
func NewMember(random io.Reader, name string) (Member, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return Member{}, fmt.Errorf("read randomness: %w", err)
	}
	return newMember(name, seed)
}

// ParseMember reads what Encode wrote. Its errors never repeat the text.
func ParseMember(text []byte) (Member, error) {
	line, ok := keyLine(text)
	id, seed, ok2 := cutKey(strings.TrimPrefix(line, privatePrefix))
	if !ok || !ok2 || !strings.HasPrefix(line, privatePrefix) {
		return Member{}, errors.New("is not a member's private key, which is one line that starts with " + privatePrefix)
	}
	name, _, _ := strings.Cut(id, "+")
	m, err := newMember(name, seed)
	if err == nil && m.text != line {
		return Member{}, errors.New("is a private key whose name or hash was altered")
	}
	return m, err
}

func newMember(name string, seed []byte) (Member, error) {
	public, err := newMemberPublic(name, ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
	if err != nil {
		return Member{}, err
	}
	text := privatePrefix + public.ID() + "+" + base64.StdEncoding.EncodeToString(append([]byte{algEd25519}, seed...))
	signer, err := note.NewSigner(text)
	if err != nil {
		return Member{}, errors.New("is not a usable private key")
	}
	return Member{text: text, signer: signer, public: public}, nil
}

// Encode returns the private key as one line of text, for a file that nobody else may read.
func (m Member) Encode() []byte { return []byte(m.text + "\n") }

// Public returns the public half.
func (m Member) Public() MemberPublic { return m.public }

// String, GoString, Format, LogValue, MarshalText and MarshalJSON never show the key.
func (m Member) String() string { return redacted }

// GoString: see String.
func (m Member) GoString() string { return redacted }

// Format: see String.
func (m Member) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue: see String.
func (m Member) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText fails: a private key does not belong in a document.
func (m Member) MarshalText() ([]byte, error) { return nil, errors.New(redacted + " is not encoded") }

// MarshalJSON fails likewise.
func (m Member) MarshalJSON() ([]byte, error) { return m.MarshalText() }

// MemberPublic is the public half of a member's key. Two are equal exactly when
// name and key are. The zero value accepts nothing.
type MemberPublic struct{ text string }

// ParseMemberPublic reads the one-line text form, NAME+HASH+KEY (signed-note's
// verifier key), in the one spelling that String gives it.
func ParseMemberPublic(text []byte) (MemberPublic, error) {
	line, ok := keyLine(text)
	if strings.HasPrefix(line, privatePrefix) {
		return MemberPublic{}, errors.New("is a private key; the public one is in the .pub file beside it")
	}
	id, key, ok2 := cutKey(line)
	if !ok || !ok2 {
		return MemberPublic{}, errors.New("is not a member's public key, which is one line NAME+HASH+KEY")
	}
	name, _, _ := strings.Cut(id, "+")
	p, err := newMemberPublic(name, key)
	if err == nil && p.text != line {
		return MemberPublic{}, errors.New("is a public key whose name or hash was altered")
	}
	return p, err
}

func newMemberPublic(name string, key ed25519.PublicKey) (MemberPublic, error) {
	if err := checkName(name); err != nil {
		return MemberPublic{}, err
	}
	text, err := note.NewEd25519VerifierKey(name, key)
	return MemberPublic{text}, err
}

// Name returns the name that stands beside the key's signatures.
func (p MemberPublic) Name() string { name, _, _ := strings.Cut(p.text, "+"); return name }

// ID returns name and key hash, NAME+HASH, as refusals give it.
func (p MemberPublic) ID() string { id, _, _ := cutKey(p.text); return id }

// String returns the text form, without a newline.
func (p MemberPublic) String() string { return p.text }

// MarshalText returns the text form.
func (p MemberPublic) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// UnmarshalText reads the text form.
func (p *MemberPublic) UnmarshalText(text []byte) (err error) {
	*p, err = ParseMemberPublic(text)
	return err
}

// keyLine returns the one line of a key's text.
func keyLine(text []byte) (string, bool) {
	line := strings.TrimSuffix(string(text[:min(len(text), maxKeyText)]), "\n")
	return line, len(text) <= maxKeyText && !strings.ContainsAny(line, "\r\n")
}

// cutKey splits ID+BASE64 of either text form into the id and the key's 32 bytes.
// Base64 has plus signs of its own; its fixed length tells them apart.
func cutKey(line string) (id string, key []byte, ok bool) {
	const size = (1 + ed25519.PublicKeySize) / 3 * 4 // 33 bytes are 44 characters
	i := len(line) - size - 1
	if i < 0 || line[i] != '+' {
		return "", nil, false
	}
	raw, err := base64.StdEncoding.DecodeString(line[i+1:])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != algEd25519 {
		return "", nil, false
	}
	return line[:i], raw[1:], true
}

// checkName holds names to characters that no terminal, shell or file name trips over.
func checkName(name string) error {
	for _, r := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_/@:", r) {
			return fmt.Errorf("a member's name consists of ASCII letters, digits and .-_/@: and not of %q", r)
		}
	}
	if name == "" || len(name) > maxName {
		return fmt.Errorf("a member's name has 1 to %d characters, not %d", maxName, len(name))
	}
	return nil
}
