package receipt

import (
	"bytes"
	"fmt"
	"strconv"
	"sync"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keystead/keystead"
)

const maxKnown = 1024 // verified checkpoints that a Verifier remembers

// A Verifier checks receipts of one domain, knowing its genesis digest alone. What
// it has verified it remembers: rosters, so that later receipts may leave them
// out, and checkpoints, so that each one's signatures are checked once. It never
// accepts two rosters of one sequence or two trees of one size. It is safe for
// concurrent use.
type Verifier struct {
	domain keystead.Digest

	mu      sync.Mutex
	genesis *Genesis
	rosters []knownRoster // by sequence
	least   uint64        // lowest roster sequence that is accepted
	known   map[string]TreeHead
	roots   map[uint64]keystead.Digest // by size, of known
	order   []string                   // of known, oldest first
}

type knownRoster struct {
	entry  keystead.Digest
	raw    []byte
	roster Roster
}

// Proven is what a receipt proves: the domain holds this entry at this place.
type Proven struct {
	Domain  keystead.Digest
	Genesis Genesis // its settings, such as trust-disks, qualify everything that the domain proves
	Kind    Kind
	Entry   []byte // whole, header included
	ID      keystead.Digest
	Index   uint64
	Head    TreeHead // the tree that it was proven in
}

// NewVerifier returns a verifier for the domain of that genesis digest.
func NewVerifier(domain keystead.Digest) *Verifier {
	return &Verifier{domain: domain, known: map[string]TreeHead{}, roots: map[uint64]keystead.Digest{}}
}

// RequireRoster refuses, from now on, checkpoints under a roster before sequence.
// Whoever knows that a roster is over says so here: nodes that were removed may
// have lost their keys since.
func (v *Verifier) RequireRoster(sequence uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.least = max(v.least, sequence)
}

// Verify checks a receipt in its text form.
func (v *Verifier) Verify(text []byte) (Proven, error) {
	r, err := Parse(text)
	if err != nil {
		return Proven{}, err
	}
	return v.VerifyReceipt(r)
}

// VerifyReceipt checks a parsed receipt.
func (v *Verifier) VerifyReceipt(r *Receipt) (Proven, error) {
	kind, _, err := Split(r.Entry)
	if err != nil {
		return Proven{}, err
	}
	if !kind.Provable() {
		return Proven{}, deny(keystead.ReasonUnprovable, "entry", "an entry of the tree", "a "+kind.String()+", which is never in the tree")
	}
	head, err := v.VerifyCheckpoint(r.Chain, r.Checkpoint)
	if err != nil {
		return Proven{}, err
	}
	id := LeafHash(r.Entry)
	root, err := proof.RootFromInclusionProof(rfc6962.DefaultHasher, r.Index, head.Size, id[:], path(r.Path))
	where := fmt.Sprintf("leaf %d of %d", r.Index, head.Size)
	if err != nil {
		return Proven{}, deny(keystead.ReasonProofInvalid, where, "an inclusion proof of that shape", err.Error())
	}
	if !bytes.Equal(root, head.Root[:]) {
		return Proven{}, deny(keystead.ReasonProofInvalid, where, "root "+head.Root.String(), keystead.Digest(root).String())
	}
	return Proven{Domain: v.domain, Genesis: *v.genesis, Kind: kind, Entry: r.Entry, ID: id, Index: r.Index, Head: head}, nil
}

func path(hashes []keystead.Digest) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}

// VerifyCheckpoint checks the chain, and that a majority of the roster at its end
// signed the checkpoint.
func (v *Verifier) VerifyCheckpoint(chain [][]byte, signed []byte) (TreeHead, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.extend(chain); err != nil {
		return TreeHead{}, err
	}
	head, ok := v.known[string(signed)]
	if !ok {
		var err error
		if head, err = v.verifyCheckpoint(signed); err != nil {
			return TreeHead{}, err
		}
		v.remember(string(signed), head)
	}
	if head.Roster < v.least {
		return TreeHead{}, deny(keystead.ReasonRosterOld, fmt.Sprintf("checkpoint of size %d", head.Size),
			"roster "+strconv.FormatUint(v.least, 10)+" or later", strconv.FormatUint(head.Roster, 10))
	}
	return head, nil
}

func (v *Verifier) verifyCheckpoint(signed []byte) (TreeHead, error) {
	h, err := ParseCheckpoint(signed)
	if err != nil {
		return h, err
	}
	where := fmt.Sprintf("checkpoint of size %d", h.Size)
	if h.Domain != v.domain {
		return h, deny(keystead.ReasonDomainMismatch, where, Origin(v.domain), Origin(h.Domain))
	}
	if h.Roster >= uint64(len(v.rosters)) {
		return h, deny(keystead.ReasonRosterUnknown, where, fmt.Sprintf("the chain of rosters up to %d", h.Roster), fmt.Sprintf("%d of its entries", len(v.rosters)))
	}
	r := &v.rosters[h.Roster]
	if h.Entry != r.entry {
		return h, deny(keystead.ReasonRosterBroken, where, fmt.Sprintf("roster %d made by entry %v", h.Roster, r.entry), h.Entry.String())
	}
	if _, err := VerifyCheckpoint(signed, &r.roster); err != nil {
		return h, err
	}
	if root, ok := v.roots[h.Size]; ok && root != h.Root {
		return h, deny(keystead.ReasonCheckpointConflict, where, "root "+root.String()+", signed by a majority before", h.Root.String()+", signed by a majority as well")
	}
	return h, nil
}

func (v *Verifier) remember(signed string, h TreeHead) {
	if len(v.order) == maxKnown {
		delete(v.roots, v.known[v.order[0]].Size)
		delete(v.known, v.order[0])
		v.order = v.order[1:]
	}
	v.known[signed], v.roots[h.Size] = h, h.Root
	v.order = append(v.order, signed)
}

// extend verifies the entries of a chain that are not known yet. A chain starts
// anywhere that is known, and has no gaps.
func (v *Verifier) extend(chain [][]byte) error {
	for i, e := range chain {
		at := v.find(e)
		if at < 0 {
			if err := v.add(e); err != nil {
				return err
			}
			at = len(v.rosters) - 1
		}
		if i > 0 && v.find(chain[i-1]) != at-1 {
			return deny(keystead.ReasonRosterBroken, fmt.Sprintf("chain entry %d", i), fmt.Sprintf("roster %d before roster %d", at-1, at), "another order")
		}
	}
	return nil
}

// find returns the sequence of a known genesis or roster entry, or -1.
func (v *Verifier) find(entry []byte) int {
	for i := range v.rosters {
		if bytes.Equal(v.rosters[i].raw, entry) {
			return i
		}
	}
	return -1
}

// add verifies the next entry of the chain and makes it known.
func (v *Verifier) add(entry []byte) error {
	kind, _, err := Split(entry)
	if err != nil {
		return err
	}
	known := len(v.rosters)
	switch {
	case kind == KindGenesis:
		g, err := VerifyGenesis(entry, v.domain)
		if err == nil {
			v.genesis = &g
			v.rosters = []knownRoster{{v.domain, bytes.Clone(entry), g.Roster}}
		}
		return err
	case kind != KindRoster:
		return deny(keystead.ReasonRosterBroken, "chain", "the genesis entry and then roster entries", "a "+kind.String()+" entry")
	case known == 0:
		return deny(keystead.ReasonRosterUnknown, "chain", "the genesis entry first", "a roster entry")
	}
	c, err := ParseChange(entry)
	if err != nil {
		return err
	}
	next := uint64(known)
	if 0 < c.Sequence && c.Sequence < next {
		next = c.Sequence // verified beside the one known, to tell a forgery from a fork
	}
	old := &v.rosters[next-1]
	if c, err = v.genesis.VerifyChange(entry, v.domain, next, old.entry, &old.roster); err != nil {
		return err
	}
	if int(next) < known {
		return deny(keystead.ReasonRosterConflict, fmt.Sprintf("roster %d", next), "entry "+v.rosters[next].entry.String(), keystead.Sum(entry).String()+", signed as well")
	}
	v.rosters = append(v.rosters, knownRoster{keystead.Sum(entry), bytes.Clone(entry), c.Roster})
	return nil
}

// VerifyConsistency checks that both checkpoints are the domain's, and that the
// tree of the old one is the start of the new one's.
func (v *Verifier) VerifyConsistency(p *Consistency) (from, to TreeHead, err error) {
	if to, err = v.VerifyCheckpoint(p.Chain, p.New); err != nil {
		return from, to, err
	}
	if from, err = v.VerifyCheckpoint(nil, p.Old); err != nil {
		return from, to, err
	}
	if err := CheckConsistency(from, to, p.Path); err != nil {
		return from, to, err
	}
	return from, to, nil
}

// CheckConsistency checks that the tree of from is the start of the tree of to.
func CheckConsistency(from, to TreeHead, hashes []keystead.Digest) error {
	err := proof.VerifyConsistency(rfc6962.DefaultHasher, from.Size, to.Size, path(hashes), from.Root[:], to.Root[:])
	if err != nil {
		return deny(keystead.ReasonProofInvalid, fmt.Sprintf("sizes %d and %d", from.Size, to.Size), "a tree that continues the older one", err.Error())
	}
	return nil
}
