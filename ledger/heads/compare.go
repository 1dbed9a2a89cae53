package heads

import (
	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// Own is this node's own log and tree, by which it judges what others say.
type Own interface {
	// Log returns where the log stands.
	Log() Log
	// Link returns the chain's hash after an entry; false if it is not remembered.
	Link(index uint64) (keystead.Digest, bool)
	// Head returns the tree at a size; false if it has not grown so far.
	Head(size uint64) (receipt.TreeHead, bool, error)
}

// standing is what comes of comparing a statement with one's own log and tree.
type standing uint8

const (
	unknown    standing = iota // too old to be compared, or of another era
	ahead                      // of this node, which compares it later
	agreesTree                 // one tree, and logs that can not be compared
	agrees                     // one log and one tree
	partsLog                   // another entry somewhere before
	partsTree                  // another tree or roster of one size
)

func (s standing) parts() bool { return s >= partsLog }

// compare holds a statement to this node's own log and tree. Where a node says nothing of
// its log, or has it from another point on, as after an upgrade, trees are compared alone.
func compare(s *Statement, own Own) (standing, error) {
	log := compareLog(&s.Log, own)
	if log.parts() {
		return log, nil
	}
	head, ok, err := own.Head(s.Tree.Size)
	switch {
	case err != nil:
		return unknown, err
	case !ok:
		return ahead, nil
	case head != s.Tree:
		return partsTree, nil
	}
	return log, nil
}

func compareLog(l *Log, own Own) standing {
	mine := own.Log()
	switch {
	case l.Start == 0 || mine.Start == 0:
		return agreesTree
	case l.Era != mine.Era:
		return unknown
	case l.Start != mine.Start:
		return agreesTree
	case l.Index > mine.Index:
		return ahead
	}
	hash, ok := own.Link(l.Index)
	switch {
	case !ok:
		return unknown
	case hash != l.Hash:
		return partsLog
	}
	return agrees
}

// exclude reports whether a statement that parts from a log and one that agrees with it
// can not both be true: it agrees at that place, or further on.
func exclude(parted, agreed *Statement, how standing) bool {
	if how == partsTree {
		return parted.Tree.Size <= agreed.Tree.Size
	}
	p, a := &parted.Log, &agreed.Log
	return p.Era == a.Era && p.Start == a.Start && p.Index <= a.Index
}

// contradict reports whether two statements by one key say two things of one place or size.
// That needs no log to be seen.
func contradict(x, y *Statement) bool {
	if x.Tree.Size == y.Tree.Size && x.Tree != y.Tree {
		return true
	}
	a, b := &x.Log, &y.Log
	return a.Start != 0 && a.Era == b.Era && a.Start == b.Start && a.Index == b.Index && a.Hash != b.Hash
}
