package rpm

import (
	"encoding/binary"
	"strings"
)

// The file format of SQLite 3 (sqlite.org/fileformat2.html): as much of it as the table
// Packages of rpm needs, whose rows are a number and a header.
const (
	sqliteMagic    = "SQLite format 3\x00"
	sqliteLeaf     = 13
	sqliteInterior = 5
	sqliteMaxDepth = 20
	sqliteUTF8     = 1
)

func isSQLite(b []byte) bool { return len(b) >= 512 && string(b[:16]) == sqliteMagic }

type sqlite struct {
	pages
	usable int // bytes of a page that are not reserved
}

func sqliteHeaders(b, journal []byte, yield func([]byte, error) bool) error {
	size := int(binary.BigEndian.Uint16(b[16:]))
	if size == 1 {
		size = 64 << 10
	}
	if size < 512 || size&(size-1) != 0 || len(b) < size || int(b[20]) > size-480 {
		return databaseError("rpmdb-sqlite", 16, "page size", "is %d of which %d are reserved", size, b[20])
	}
	s := &sqlite{pages{format: "rpmdb-sqlite", data: b, size: size, first: 1, used: map[int]bool{}}, size - int(b[20])}
	s.over = walPages(journal, size)
	head := b
	if first, ok := s.over[1]; ok {
		head = first
	}
	if e := binary.BigEndian.Uint32(head[56:]); e != sqliteUTF8 {
		return databaseError("rpmdb-sqlite", 56, "encoding", "is %d, want UTF-8", e)
	}
	root := 0
	err := s.table(1, 0, func(row []byte) error {
		values, err := s.columns(row, 5) // type, name, tbl_name, rootpage, sql
		if err == nil && string(values[0]) == "table" && strings.EqualFold(string(values[1]), "packages") {
			for _, c := range values[3] {
				root = root<<8 | int(c)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if root == 0 {
		return databaseError("rpmdb-sqlite", 100, "schema", "has no table Packages")
	}
	return s.table(root, 0, func(row []byte) error {
		values, err := s.columns(row, 2) // hnum, which is the row's number and so not stored; blob
		if err == nil && !yield(values[1], nil) {
			err = errStop
		}
		return err
	})
}

// table calls do with each row of the b-tree.
func (s *sqlite) table(number, depth int, do func(row []byte) error) error {
	fail := func(problem string, args ...any) error {
		return databaseError(s.format, (number-1)*s.size, "page", problem, args...)
	}
	page, err := s.get(number)
	if err != nil {
		return err
	}
	h := 0
	if number == 1 {
		h = 100
	}
	kind, cells := page[h], int(binary.BigEndian.Uint16(page[h+3:]))
	index := h + 8
	if kind == sqliteInterior {
		index = h + 12
	}
	if kind != sqliteLeaf && kind != sqliteInterior || index+2*cells > s.usable || depth > sqliteMaxDepth {
		return fail("%d is of type %d with %d cells at depth %d: not a table", number, kind, cells, depth)
	}
	for i := range cells {
		at := int(binary.BigEndian.Uint16(page[index+2*i:]))
		if at < index+2*cells || at+4 > s.usable {
			return fail("%d has a cell at %d", number, at)
		}
		cell := page[at:s.usable]
		if kind == sqliteInterior {
			if err := s.table(int(binary.BigEndian.Uint32(cell)), depth+1, do); err != nil {
				return err
			}
			continue
		}
		row, err := s.payload(cell)
		if err != nil {
			return err
		}
		if err := do(row); err != nil {
			return err
		}
	}
	if kind == sqliteInterior {
		return s.table(int(binary.BigEndian.Uint32(page[h+8:])), depth+1, do)
	}
	return nil
}

// payload gathers the bytes of a row, of which a part may lie on overflow pages.
func (s *sqlite) payload(cell []byte) ([]byte, error) {
	size, n := uvarint(cell)
	_, k := uvarint(cell[n:]) // the row's number
	cell = cell[n+k:]
	if n == 0 || k == 0 || size > MaxHeader+64 || int(size) > len(s.data)+len(s.over)*s.size {
		return nil, databaseError(s.format, 0, "row", "is %d bytes long, at most %d are accepted", size, MaxHeader)
	}
	total := int(size)
	local := total
	if most := s.usable - 35; total > most {
		least := (s.usable-12)*32/255 - 23
		if local = least + (total-least)%(s.usable-4); local > most {
			local = least
		}
	}
	if local == total {
		if local > len(cell) {
			return nil, databaseError(s.format, 0, "row", "ends outside of its page")
		}
		return cell[:local], nil
	}
	if local+4 > len(cell) {
		return nil, databaseError(s.format, 0, "row", "ends outside of its page")
	}
	out := append(make([]byte, 0, total), cell[:local]...)
	next := int(binary.BigEndian.Uint32(cell[local:]))
	for len(out) < total {
		page, err := s.get(next)
		if err != nil {
			return nil, err
		}
		out = append(out, page[4:min(s.usable, 4+total-len(out))]...)
		next = int(binary.BigEndian.Uint32(page))
	}
	return out, nil
}

// columns cuts a row into its first n values, as they are stored.
func (s *sqlite) columns(row []byte, n int) ([][]byte, error) {
	fail := func() ([][]byte, error) {
		return nil, databaseError(s.format, 0, "row", "is not a record of %d columns", n)
	}
	size, k := uvarint(row)
	if k == 0 || size > uint64(len(row)) || int(size) < k {
		return fail()
	}
	types, body := row[k:size], row[size:]
	out := make([][]byte, n)
	for i := range n {
		t, k := uvarint(types)
		if k == 0 {
			return fail()
		}
		types = types[k:]
		width := uint64(0)
		switch {
		case t >= 12:
			width = (t - 12) / 2 // blob, or text
		case t < 8:
			width = []uint64{0, 1, 2, 3, 4, 6, 8, 8}[t]
		}
		if width > uint64(len(body)) {
			return fail()
		}
		out[i], body = body[:width], body[width:]
	}
	return out, nil
}

// uvarint reads SQLite's integers: seven bits a byte, the highest first, and eight in
// the ninth. n is 0 if b is cut off.
func uvarint(b []byte) (v uint64, n int) {
	for n < len(b) && n < 9 {
		c := b[n]
		n++
		if n == 9 {
			return v<<8 | uint64(c), n
		}
		v = v<<7 | uint64(c&0x7f)
		if c < 0x80 {
			return v, n
		}
	}
	return 0, 0
}

const (
	walHead  = 32
	walFrame = 24
)

// walPages returns the pages that the write-ahead log has newer than the file: those
// before its last commit, as far as salt and checksums hold.
func walPages(w []byte, size int) map[int][]byte {
	if len(w) < walHead || int(binary.BigEndian.Uint32(w[8:])) != size {
		return nil
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch binary.BigEndian.Uint32(w) {
	case 0x377f0682:
	case 0x377f0683:
		order = binary.BigEndian
	default:
		return nil
	}
	var a, b uint32
	sum := func(p []byte) {
		for ; len(p) >= 8; p = p[8:] {
			a += order.Uint32(p) + b
			b += order.Uint32(p[4:]) + a
		}
	}
	if sum(w[:24]); a != binary.BigEndian.Uint32(w[24:]) || b != binary.BigEndian.Uint32(w[28:]) {
		return nil
	}
	committed, open := map[int][]byte{}, map[int][]byte{}
	for rest := w[walHead:]; len(rest) >= walFrame+size; rest = rest[walFrame+size:] {
		f, page := rest[:walFrame], rest[walFrame:walFrame+size]
		sum(f[:8])
		sum(page)
		if string(f[8:16]) != string(w[16:24]) || a != binary.BigEndian.Uint32(f[16:]) || b != binary.BigEndian.Uint32(f[20:]) {
			break
		}
		open[int(binary.BigEndian.Uint32(f))] = page
		if binary.BigEndian.Uint32(f[4:]) != 0 { // the last frame of a transaction
			for n, p := range open {
				committed[n] = p
			}
			clear(open)
		}
	}
	return committed
}
