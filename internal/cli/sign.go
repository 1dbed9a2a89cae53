package cli

import (
	"fmt"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// SignNote adds a member's signature to a text or note.
func SignNote(m key.Member, text []byte) ([]byte, error) {
	if key.IsNote(text) {
		return m.Cosign(text)
	}
	return m.Sign(text)
}

// SignChecked signs a text, or adds to a note's signatures, if check accepts the bare
// text. Signatures that stand there already are kept and not verified.
func SignChecked(m key.Member, text []byte, check func(bare []byte) error) ([]byte, error) {
	bare, err := text, error(nil)
	if key.IsNote(text) {
		bare, _, err = key.Peek(text)
	}
	if err == nil {
		err = check(bare)
	}
	if err != nil {
		return nil, err
	}
	return SignNote(m, text)
}

// SignAs is SignWith for what is handed on and not handed in: a key that is no member's is refused
// (not-member), as nodes would later.
func SignAs(r *receipt.Roster, text []byte, keys []string) ([]byte, error) {
	for _, file := range keys {
		m, err := ReadMember(file)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(r.Members, m.Public()) {
			return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: file, Want: fmt.Sprintf("the key of one of %d members", len(r.Members)), Got: m.Public().ID()})
		}
	}
	return SignWith(text, keys)
}

// SignWith signs a text with members' keys, one after the other.
func SignWith(text []byte, keys []string) ([]byte, error) {
	for _, file := range keys {
		m, err := ReadMember(file)
		if err != nil {
			return nil, err
		}
		if text, err = SignNote(m, text); err != nil {
			return nil, err
		}
	}
	return text, nil
}
