package cli

import "github.com/keystead/keystead/key"

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
