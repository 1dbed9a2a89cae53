package toy

import (
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// What the toy has on the ledger: a judged type, whose statement members sign, and records that
// nodes write; and a context in which nodes sign for it.
const (
	TypeNickname = "toynickname"
	KindNickname = key.KindSetting // a system has a kind of its own (key/note.go); this one borrows
	Contract     = "toy"
	Context      = "keystead toy greeting/1"
)

// ParseNickname returns the nickname that a statement's text gives: its one line after the kind.
func ParseNickname(text []byte) (string, error) {
	kind, rest, _ := strings.Cut(string(text), "\n")
	name, nothing, whole := strings.Cut(rest, "\n")
	if kind != string(KindNickname) || !whole || nothing != "" || name == "" || len(name) > MaxName {
		return "", &keystead.FormatError{Format: string(KindNickname), Field: "nickname", Problem: "is not one line of 1 to 64 bytes"}
	}
	return name, nil
}
