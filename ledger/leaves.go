package ledger

import (
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// RunWidth is how many entries a run has, the last one excepted: those of a full tile.
const RunWidth = tileWidth

// Runs are the Merkle hashes of the tree's entries, in runs of RunWidth: with them each
// run can be checked against the tree's root by itself.
type Runs struct {
	Size   uint64
	Root   keystead.Digest
	Hashes []keystead.Digest
}

// Runs returns the hashes of the tree's runs.
func (v View) Runs() (r Runs, err error) {
	s, err := v.Status()
	if err != nil {
		return r, err
	}
	nodes := newNodeSource(v.r, s.Size)
	r.Size = s.Size
	for i := uint64(0); i*RunWidth < s.Size; i++ {
		var h hash
		if (i+1)*RunWidth <= s.Size {
			h, err = nodes.node(nodeID{Level: tileHeight, Index: i})
		} else {
			h, err = v.lastRun(i)
		}
		if err != nil {
			return r, err
		}
		r.Hashes = append(r.Hashes, h)
	}
	r.Root = fold(r.Hashes)
	return r, nil
}

func (v View) lastRun(i uint64) (hash, error) {
	entries, err := v.Run(i)
	return runHash(entries), err
}

// Run returns the entries of a run, at most RunWidth.
func (v View) Run(i uint64) (entries [][]byte, err error) {
	err = v.r.Scan(numberKey(spaceEntry, i*RunWidth), numberKey(spaceEntry, (i+1)*RunWidth), func(_, b []byte) bool {
		entries = append(entries, append([]byte(nil), b...))
		return true
	})
	return entries, err
}

// runHash returns the Merkle tree hash of the entries.
func runHash(entries [][]byte) hash {
	level := make([]hash, len(entries))
	for i, e := range entries {
		level[i] = receipt.LeafHash(e)
	}
	return fold(level)
}

// fold returns the Merkle tree hash (RFC 6962) above hashes of one level: pairs from the
// left, and a last one alone goes up.
func fold(hashes []hash) hash {
	if len(hashes) == 0 {
		return keystead.Sum(nil)
	}
	level := append([]hash(nil), hashes...)
	for len(level) > 1 {
		level = pairUp(level)
	}
	return level[0]
}

// pairUp returns the level above, in the place of the one that it is given: the last hash goes up
// alone where it has no other beside it.
func pairUp(level []hash) []hash {
	up := level[:0]
	for i := 0; i < len(level); i += 2 {
		if i+1 == len(level) {
			up = append(up, level[i])
		} else {
			up = append(up, hashChildren(&level[i], &level[i+1]))
		}
	}
	return up
}

// Verify checks the hashes against the size and the root.
func (r *Runs) Verify() error {
	if want := (r.Size + RunWidth - 1) / RunWidth; uint64(len(r.Hashes)) != want {
		return deny(keystead.ReasonSnapshotUnproven, "runs", fmt.Sprintf("%d for a tree of %d entries", want, r.Size), fmt.Sprint(len(r.Hashes)))
	}
	if got := fold(r.Hashes); got != r.Root {
		return deny(keystead.ReasonSnapshotUnproven, "runs", "hashes under the root "+r.Root.String(), got.String())
	}
	return nil
}

// Leaves puts the entries of a tree into a store, a run at a time, none of them unchecked.
type Leaves struct {
	runs Runs
	tree tree
}

// NewLeaves begins with the first run of runs that were verified.
func NewLeaves(r Runs) *Leaves { return &Leaves{runs: r} }

// Next returns which run comes next, and false after the last one.
func (l *Leaves) Next() (uint64, bool) {
	return l.tree.size / RunWidth, l.tree.size < l.runs.Size
}

// Add writes the next run's entries, and the tiles that they fill, if they are those of
// the tree.
func (l *Leaves) Add(entries [][]byte, w Writer) error {
	i, more := l.Next()
	where := fmt.Sprintf("entries from %d", l.tree.size)
	if want := min(RunWidth, l.runs.Size-l.tree.size); !more || uint64(len(entries)) != want {
		return deny(keystead.ReasonSnapshotUnproven, where, fmt.Sprintf("%d entries", want), fmt.Sprint(len(entries)))
	}
	leaves := make([]hash, len(entries))
	for i, e := range entries {
		leaves[i] = receipt.LeafHash(e)
	}
	if got := fold(leaves); got != l.runs.Hashes[i] {
		return deny(keystead.ReasonSnapshotUnproven, where, "the entries of the tree, of hash "+l.runs.Hashes[i].String(), got.String())
	}
	l.tree.filled = nil
	for i, e := range entries {
		if err := w.Set(numberKey(spaceEntry, l.tree.size), e); err != nil {
			return err
		}
		if err := l.tree.append(&leaves[i], w); err != nil {
			return err
		}
	}
	return nil
}
