package ledger

import (
	"fmt"
	"strconv"

	"github.com/keystead/keystead"
)

// checkLeaf checks that an entry which was read from the store is the one that the tree has
// there, for the disk may have been edited while the node was down. It goes up through the
// tiles that are stored. Where the way meets a node by which the machine, when it opened the
// store, held the tree to the last checkpoint that a majority signed, that node is as it was
// signed, and so is all that leads up to it. Entries that are below no full tile were read,
// and held to the checkpoint, then; those after it are signed by nobody yet.
func (v View) checkLeaf(leaf uint64, h hash) error {
	s, err := v.Status()
	if err != nil {
		return err
	}
	source, at := newNodeSource(v.r, s.Size), leaf
	for level := uint(0); at>>tileHeight < s.Size>>(tileHeight*(level+1)); level++ {
		b, err := source.full(tileID{level, at >> tileHeight})
		if err != nil {
			return err
		}
		if h, err = climb(b, at&(tileWidth-1), h); err != nil {
			return deny(keystead.ReasonStoreCorrupt, "entry "+strconv.FormatUint(leaf, 10), fmt.Sprintf("the one in tile %d of level %d of the tree", at>>tileHeight, level), err.Error())
		}
		at >>= tileHeight
	}
	return nil
}

// climb goes from a lowest node of an encoded tile, whose hash is known, to its root.
func climb(b []byte, i uint64, h hash) (hash, error) {
	if b == nil {
		return h, fmt.Errorf("no such tile")
	}
	node := func(level uint, i uint64) hash { return hash(b[place(level, i)*len(h):]) }
	for level := uint(0); ; level, i = level+1, i>>1 {
		if node(level, i) != h {
			return h, fmt.Errorf("hash %s, where the tile has %s", h, node(level, i))
		}
		if level == tileHeight {
			return h, nil
		}
		l, r := h, node(level, i^1)
		if i&1 == 1 {
			l, r = r, l
		}
		h = hashChildren(&l, &r)
	}
}
