package receipt

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

const maxCheckpoint = 16 << 10 // bytes of a signed checkpoint

// TreeHead is what the nodes of a domain sign: the tree at one size, and the
// roster in force there. As text it is a C2SP tlog-checkpoint with one extension
// line, "roster SEQUENCE DIGEST", which anyone can recompute from the log. With it
// a signature counts under one roster only: a removed node's signature can not
// turn a minority of the roster of now into a majority of an older one.
type TreeHead struct {
	Domain keystead.Digest
	Size   uint64          // leaves
	Root   keystead.Digest // RFC 6962 root hash
	Roster uint64          // sequence of the last roster among those leaves
	Entry  keystead.Digest // digest of the entry that made it
}

// Text returns the head as the note text that nodes sign.
func (h *TreeHead) Text() []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, "%s\n%d\n%s\nroster %d %s\n", Origin(h.Domain), h.Size, b64(h.Root[:]), h.Roster, b64(h.Entry[:]))
}

// Sign signs the head.
func (h *TreeHead) Sign(k *key.Node) key.NodeSignature { return k.Sign(h.Text()) }

// ParseTreeHead reads the text of a checkpoint, without signatures.
func ParseTreeHead(text []byte) (TreeHead, error) {
	var h TreeHead
	l := lines{format: "checkpoint", rest: text}
	h.Domain = l.parseOrigin("origin", l.line("origin"))
	h.Size = l.decimal("tree size", l.line("tree size"))
	h.Root = l.hash("root hash", l.line("root hash"))
	seq, entry, _ := strings.Cut(l.value("roster"), " ")
	h.Roster = l.decimal("roster", seq)
	h.Entry = l.hash("roster", entry)
	if l.err == nil && len(l.rest) > 0 {
		l.fail("end", "further extension lines are not accepted")
	}
	return h, l.err
}

// ParseCheckpoint reads a signed checkpoint without checking its signatures.
func ParseCheckpoint(signed []byte) (TreeHead, error) {
	i := bytes.Index(signed, []byte("\n\n"))
	if i < 0 || len(signed) > maxCheckpoint {
		return TreeHead{}, &keystead.FormatError{Format: "checkpoint", Field: "note", Problem: fmt.Sprintf("wants a blank line before its signatures, and at most %d bytes", maxCheckpoint)}
	}
	return ParseTreeHead(signed[:i+1])
}

// VerifyCheckpoint checks that a majority of the roster's nodes signed the
// checkpoint. That the roster is the one that the head names is the caller's
// business; a [Verifier] sees to both.
func VerifyCheckpoint(signed []byte, roster *Roster) (TreeHead, error) {
	h, err := ParseCheckpoint(signed)
	if err != nil {
		return TreeHead{}, err
	}
	return h, verifyNodes(signed, roster, fmt.Sprintf("checkpoint of size %d", h.Size))
}
