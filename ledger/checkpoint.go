package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// maxVotes is how many of a node's last votes are kept: those of sizes that the
// other nodes have not reached yet.
const maxVotes = 4

// checkpoint is the last tree head that a majority signed.
type checkpoint struct {
	size uint64
	note []byte
	by   map[string]bool // nodes whose signature is in note
}

// applyVote counts a node's signature over a tree head. It counts in the node set
// of the head's size, and only if the head is that of this node's own tree.
func (m *Machine) applyVote(entry []byte, w Writer) error {
	v, err := ParseVote(entry)
	if err != nil {
		return err
	}
	where := fmt.Sprintf("checkpoint of size %d", v.Size)
	if v.Size == 0 || v.Size > m.head.size {
		return deny(keystead.ReasonProofInvalid, where, "a size of 1 to "+strconv.FormatUint(m.head.size, 10), strconv.FormatUint(v.Size, 10))
	}
	if v.Size < m.latest.size || m.latest.size == v.Size && m.latest.by[v.Node] {
		return nil // late: a majority has signed a larger tree, or this was sent twice
	}
	head, err := m.Head(v.Size)
	if err != nil {
		return fatal(err)
	}
	k, err := m.signer(&m.rosters[head.Roster].Roster, v.Node, where)
	if err != nil {
		return err
	}
	theirs := head
	theirs.Root = v.Root
	if !k.Verify(theirs.Text(), v.Signature) {
		return deny(keystead.ReasonSignatureInvalid, where, "a signature by "+v.Node, "another")
	}
	if v.Root != head.Root {
		f := keystead.Finding{Reason: keystead.ReasonCheckpointConflict, Where: where, Want: "root " + head.Root.String(), Got: v.Root.String() + ", signed by " + v.Node}
		if err := m.raise(w, f); err != nil {
			return err
		}
		return keystead.Deny(f)
	}
	if m.voted == nil || m.voted.Size < head.Size {
		m.voted = &head
	}
	return m.count(v, head, w)
}

// count keeps a good vote, and makes the checkpoint once a majority voted.
func (m *Machine) count(v Vote, head receipt.TreeHead, w Writer) error {
	r := &m.rosters[head.Roster].Roster
	if v.Size == m.latest.size {
		n, _ := r.Node(v.Node)
		m.latest.note = receipt.AppendSignature(m.latest.note, n, v.Signature)
		m.latest.by[v.Node] = true
		return m.saveCheckpoint(w)
	}
	votes := m.votes[v.Node]
	if n := len(votes); n > 0 && votes[n-1].Size >= v.Size {
		return nil // nodes sign ever larger trees
	}
	votes = append(votes, v)
	if len(votes) > maxVotes {
		votes = votes[1:]
	}
	m.votes[v.Node] = votes
	if err := w.Set(nameKey(spaceVotes, v.Node), encodeVotes(votes)); err != nil {
		return fatal(err)
	}
	by := map[string]bool{}
	note := append(head.Text(), '\n')
	for _, n := range r.Nodes {
		for _, v := range m.votes[n.Name] {
			if v.Size == head.Size {
				note = receipt.AppendSignature(note, n, v.Signature)
				by[n.Name] = true
			}
		}
	}
	if len(by) < r.Majority() {
		return nil
	}
	m.latest = checkpoint{head.Size, note, by}
	return m.saveCheckpoint(w)
}

func (m *Machine) saveCheckpoint(w Writer) error {
	m.signed = m.latest.note[:len(m.latest.note):len(m.latest.note)]
	return fatal(w.Set([]byte{spaceLatest}, m.latest.note))
}

func encodeVotes(votes []Vote) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(votes)))
	for _, v := range votes {
		b = binary.BigEndian.AppendUint64(b, v.Size)
		b = appendSigned(append(b, v.Root[:]...), v.Signed)
	}
	return b
}

func decodeVotes(b []byte) (votes []Vote, err error) {
	c := record("votes", b)
	for range count(c, "votes", maxVotes) {
		if c.Err() == nil {
			votes = append(votes, Vote{c.U64("size"), digest(c, "root"), readSigned(c)})
		}
	}
	c.End()
	return votes, c.Err()
}

// loadCheckpoint reads back a note that saveCheckpoint wrote. The tree must be the one
// that the majority signed.
func (m *Machine) loadCheckpoint(note []byte) error {
	h, err := receipt.ParseCheckpoint(note)
	if err != nil {
		return err
	}
	if _, err := receipt.VerifyCheckpoint(note, &m.rosters[m.rosterAt(h.Size)].Roster); err != nil {
		return err
	}
	own, err := m.Head(h.Size)
	if err != nil {
		return err
	}
	if own.Root != h.Root {
		return deny(keystead.ReasonCheckpointConflict, fmt.Sprintf("checkpoint of size %d", h.Size), "root "+h.Root.String()+", which a majority signed", own.Root.String())
	}
	m.latest = checkpoint{h.Size, bytes.Clone(note), map[string]bool{}}
	for line := range strings.Lines(string(note)) {
		if s, ok := strings.CutPrefix(line, "— "); ok {
			name, _, _ := strings.Cut(s, " ")
			m.latest.by[name] = true
		}
	}
	return nil
}
