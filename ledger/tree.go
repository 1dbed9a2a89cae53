package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// The Merkle tree (RFC 6962) is kept in tiles: a tile of level l covers 256 nodes
// of tree level 8l, with all that lies above them up to its root, which is a node
// of level 8(l+1). Only full tiles are stored, so a leaf costs 64 bytes; what is
// not full is computed from the level below, in the end from the entries.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	tileNodes  = 2*tileWidth - 1
	maxLevels  = 8 // of tiles: 2^64 leaves
)

type (
	hash   = keystead.Digest
	nodeID = compact.NodeID
)

// tile holds its nodes level by level, the 256 lowest first and the root last.
type tile struct {
	n     int // lowest nodes that are there
	nodes [tileNodes]hash
}

// at returns the place of node i of the tile's level.
func (t *tile) at(level uint, i uint64) *hash {
	return &t.nodes[place(level, i)]
}

func place(level uint, i uint64) int { return 2*tileWidth - 2*tileWidth>>level + int(i) }

// add puts the next of the lowest nodes and every node that it completes, and
// reports whether the tile is full.
func (t *tile) add(h *hash) bool {
	i := uint64(t.n)
	*t.at(0, i) = *h
	t.n++
	for level := uint(0); i&1 == 1; level, i = level+1, i>>1 {
		*t.at(level+1, i>>1) = hashChildren(t.at(level, i-1), t.at(level, i))
	}
	return t.n == tileWidth
}

func (t *tile) root() *hash { return t.at(tileHeight, 0) }

func (t *tile) encode(b []byte) []byte {
	for i := range t.nodes {
		b = append(b, t.nodes[i][:]...)
	}
	return b
}

func (t *tile) decode(b []byte) {
	t.n = tileWidth
	for i := range t.nodes {
		t.nodes[i] = hash(b[i*len(hash{}):])
	}
}

func hashChildren(l, r *hash) hash {
	var b [65]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[33:], r[:])
	return sha256.Sum256(b[:])
}

func tileKey(level uint, index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{spaceTile, byte(level)}, index)
}

// tree is the growing edge: the last tile of each level, in memory, and the tiles
// that the batch at hand filled.
type tree struct {
	size   uint64
	edge   [maxLevels]*tile
	filled map[tileID]*tile
	buf    []byte
}

// append adds a leaf and writes the tiles that it fills.
func (t *tree) append(leaf *hash, w Writer) error {
	h := *leaf
	for level := uint(0); ; level++ {
		if t.edge[level] == nil {
			t.edge[level] = new(tile)
		}
		e := t.edge[level]
		if !e.add(&h) {
			break
		}
		id := tileID{level, t.size >> (tileHeight * (level + 1))}
		t.buf = e.encode(t.buf[:0])
		if err := w.Set(tileKey(id.level, id.index), t.buf); err != nil {
			return err
		}
		if t.filled == nil {
			t.filled = map[tileID]*tile{}
		}
		t.filled[id], t.edge[level] = e, new(tile)
		h = *e.root()
	}
	t.size++
	return nil
}

// nodeSource finds nodes of the tree of a size in the store, and computes those
// of tiles that are not stored.
type nodeSource struct {
	r     Reader
	size  uint64
	tiles map[tileID]*tile // cache
}

type tileID struct {
	level uint
	index uint64
}

func newNodeSource(r Reader, size uint64) *nodeSource {
	return &nodeSource{r, size, map[tileID]*tile{}}
}

const maxCachedTiles = 1024 // 16 MiB

// node returns a node whose leaves are all there.
func (s *nodeSource) node(id nodeID) (hash, error) {
	at, within := locate(id)
	t := s.tiles[at]
	if t == nil {
		var err error
		if t, err = s.load(at); err != nil {
			return hash{}, err
		}
	}
	return *t.at(within, id.Index&(tileWidth>>within-1)), nil
}

// load gets a tile from the store, or makes it if it is not full.
func (s *nodeSource) load(at tileID) (*tile, error) {
	b, err := s.full(at)
	if err != nil {
		return nil, err
	}
	t := new(tile)
	if b != nil {
		t.decode(b)
	} else if t, err = s.partial(at); err != nil {
		return nil, err
	}
	if len(s.tiles) >= maxCachedTiles {
		for other := range s.tiles { // any: leaves are asked for in no order
			delete(s.tiles, other)
			break
		}
	}
	s.tiles[at] = t
	return t, nil
}

// full returns the bytes of a tile that is stored, or nil.
func (s *nodeSource) full(at tileID) ([]byte, error) {
	b, found, err := s.r.Get(tileKey(at.level, at.index))
	if err != nil || !found {
		return nil, err
	}
	if len(b) != tileNodes*len(hash{}) {
		return nil, &keystead.FormatError{Format: "tile", Field: "size", Problem: fmt.Sprintf("tile %d of level %d has %d bytes", at.index, at.level, len(b))}
	}
	return b, nil
}

// partial makes a tile that is not full, from the entries or the tiles below.
func (s *nodeSource) partial(at tileID) (*tile, error) {
	t := new(tile)
	first := at.index << tileHeight
	last := min(first+tileWidth, s.size>>(tileHeight*at.level)) // lowest nodes that are complete
	add := s.addRoots
	if at.level == 0 {
		add = s.addLeaves
	}
	return t, add(t, at.level, first, last)
}

// addLeaves hashes the entries from first to before last.
func (s *nodeSource) addLeaves(t *tile, _ uint, first, last uint64) error {
	next := first
	err := s.r.Scan(numberKey(spaceEntry, first), numberKey(spaceEntry, last), func(k, v []byte) bool {
		if binary.BigEndian.Uint64(k[1:]) != next {
			return false
		}
		h := receipt.LeafHash(v)
		t.add(&h)
		next++
		return true
	})
	if err == nil && next != last {
		err = &keystead.FormatError{Format: "tree", Field: "entry", Problem: fmt.Sprintf("entry %d is missing", next)}
	}
	return err
}

// addRoots takes the roots of the full tiles one level below.
func (s *nodeSource) addRoots(t *tile, level uint, first, last uint64) error {
	for i := first; i < last; i++ {
		b, err := s.full(tileID{level - 1, i})
		if err == nil && b == nil {
			err = &keystead.FormatError{Format: "tree", Field: "tile", Problem: fmt.Sprintf("tile %d of level %d is missing", i, level-1)}
		}
		if err != nil {
			return err
		}
		h := hash(b[len(b)-len(hash{}):])
		t.add(&h)
	}
	return nil
}

// openTree reads back the edge of the tree of that size.
func openTree(r Reader, size uint64) (tree, error) {
	t := tree{size: size}
	s := newNodeSource(r, size)
	for level := uint(0); level < maxLevels && size>>(tileHeight*level) > 0; level++ {
		e, err := s.partial(tileID{level, size >> (tileHeight * (level + 1))})
		if err != nil {
			return t, err
		}
		t.edge[level] = e
	}
	return t, nil
}

// node finds a node in memory, or else in the store.
func (t *tree) node(id nodeID, stored *nodeSource) (hash, error) {
	at, within := locate(id)
	e := t.filled[at]
	if at.level < maxLevels && at.index == t.size>>(tileHeight*(at.level+1)) {
		e = t.edge[at.level]
	}
	if e != nil {
		return *e.at(within, id.Index&(tileWidth>>within-1)), nil
	}
	return stored.node(id)
}

// locate returns the tile of a node, and the node's level within it.
func locate(id nodeID) (tileID, uint) {
	within := id.Level % tileHeight
	return tileID{id.Level / tileHeight, id.Index >> (tileHeight - within)}, within
}

// root computes the root hash of the first size leaves.
func root(size uint64, node func(nodeID) (hash, error)) (hash, error) {
	if size == 0 {
		return sha256.Sum256(nil), nil
	}
	ids := compact.RangeNodes(0, size, nil)
	h, err := node(ids[len(ids)-1])
	for i := len(ids) - 2; i >= 0 && err == nil; i-- {
		var l hash
		l, err = node(ids[i])
		h = hashChildren(&l, &h)
	}
	return h, err
}

// path collects the hashes of an inclusion or consistency proof.
func path(nodes proof.Nodes, node func(nodeID) (hash, error)) ([]hash, error) {
	out := make([]hash, 0, len(nodes.IDs))
	_, begin, end := nodes.Ephem()
	for i, id := range nodes.IDs {
		h, err := node(id)
		if err != nil {
			return nil, err
		}
		if i > begin && i < end { // part of one hash at the right edge
			last := &out[len(out)-1]
			*last = hashChildren(&h, last)
			continue
		}
		out = append(out, h)
	}
	return out, nil
}
