package refval

import (
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// setMagic opens a set and carries its version. It only ever grows:
//
//	1  header, paths, records
const setMagic = "keystead-refset/1\n"

// Bounds of a set. They hold for a distribution's every package.
const (
	MaxSet    = 2 << 30  // bytes, whole
	maxHeader = 64 << 20 // bytes
)

// Parse reads a set (docs/spec/refset.md). It fails with a *keystead.FormatError.
// It accepts exactly one spelling of a set, the one that a Builder gives, and does
// not keep raw.
func Parse(raw []byte) (*Set, error) {
	if len(raw) > MaxSet {
		return nil, &keystead.FormatError{Format: "refset", Field: "whole", Problem: fmt.Sprintf("is %d bytes long, at most %d are accepted", len(raw), MaxSet)}
	}
	c := cursor.New("refset", binary.BigEndian, raw)
	if m := c.Bytes(len(setMagic), "magic"); m != nil && string(m) != setMagic {
		c.Fail("magic", "is %.20q, want %q", m, setMagic)
	}
	header, err := parseHeader(c.Sized32(maxHeader, "header"))
	if err != nil {
		c.Fail("header", "%v", err)
	}
	view := func(field string, n int) (from, to int) {
		from = c.Offset()
		c.Bytes(n, field)
		return from, c.Offset()
	}
	ends, endsTo := view("path ends", 4*int(c.U32("path count")))
	names, namesTo := view("paths", int(c.U32("path length")))
	recs, recsTo := view("records", recordSize*int(c.U32("record count")))
	c.End()
	if err := c.Err(); err != nil {
		return nil, err
	}
	s := &Set{data: string(raw), digest: keystead.Sum(raw), header: header}
	s.paths = pathTable{ends: s.data[ends:endsTo], text: s.data[names:namesTo]}
	s.records = s.data[recs:recsTo]
	if err := s.checkPaths(ends); err != nil {
		return nil, err
	}
	if err := s.checkRecords(recs); err != nil {
		return nil, err
	}
	for _, p := range header.Packages {
		s.origins = append(s.origins, header.Repositories[p.Repositories[0]].name())
	}
	s.indexBuckets()
	return s, nil
}

// checkPaths wants canonical paths in ascending order that fill the text.
func (s *Set) checkPaths(offset int) error {
	fail := func(i int, problem string) error {
		return &keystead.FormatError{Format: "refset", Offset: int64(offset + 4*i), Field: fmt.Sprintf("path %d", i), Problem: problem}
	}
	end := uint32(0)
	last := ""
	for i := range s.paths.len() {
		to := u32(s.paths.ends[4*i:])
		if to < end || int(to) > len(s.paths.text) {
			return fail(i, "ends outside of the text")
		}
		p := s.paths.text[end:to]
		if p <= last {
			return fail(i, "is out of order")
		}
		if c, ok := CanonicalPath(p); !ok || c != p {
			return fail(i, fmt.Sprintf("%.80q is not canonical", p))
		}
		end, last = to, p
	}
	if int(end) != len(s.paths.text) {
		return fail(s.paths.len(), "the text is longer than its paths")
	}
	return nil
}

// checkRecords wants ascending records that refer to what is there, and use every path.
func (s *Set) checkRecords(offset int) error {
	used := make([]bool, s.paths.len())
	fail := func(i int, problem string) error {
		return &keystead.FormatError{Format: "refset", Offset: int64(offset + recordSize*i), Field: fmt.Sprintf("record %d", i), Problem: problem}
	}
	for i := range s.Len() {
		if i > 0 && s.records[(i-1)*recordSize:i*recordSize] >= s.records[i*recordSize:(i+1)*recordSize] {
			return fail(i, "is out of order")
		}
		if s.pathOf(i) >= len(used) || s.packageOf(i) >= len(s.header.Packages) {
			return fail(i, "refers to a path or package that is not there")
		}
		used[s.pathOf(i)] = true
	}
	for i, u := range used {
		if !u {
			return fail(s.Len(), fmt.Sprintf("no record uses path %d", i))
		}
	}
	return nil
}
