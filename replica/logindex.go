package replica

import (
	"fmt"
	"slices"
	"sort"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica/internal/segment"
)

// A run is entries without a gap, as they are left when each that is added voids what
// had its index or a higher one.
type run struct {
	first, last entryID // a last of term 0 is one whose term was forgotten
	mixed       bool    // there may be terms other than the first's
}

// add puts an entry behind the run or in place of some of it.
func (r *run) add(e entryID) error {
	if r.first.index == 0 || e.index <= r.first.index {
		*r = run{first: e, last: e}
		return nil
	}
	if e.index > r.last.index+1 {
		return gap(e.index, r.last.index)
	}
	r.last, r.mixed = e, r.mixed || e.term != r.first.term
	return nil
}

func gap(i, last uint64) error {
	return &keystead.FormatError{Format: "log-record", Field: "index", Problem: fmt.Sprintf("is %d after %d", i, last)}
}

// known returns the term of an entry of the run, unless only the disk knows.
func (r *run) known(i uint64) (term uint64, ok bool) {
	switch {
	case !r.mixed || i == r.first.index:
		return r.first.term, true
	case i == r.last.index:
		return r.last.term, r.last.term != 0
	}
	return 0, false
}

// A span is a run and where it is. Whoever reads all of the place, each entry voiding
// what had its index or a higher one, has the run, and perhaps entries behind it that
// were overwritten elsewhere.
type span struct {
	run
	at segment.Place
}

// spanBytes is what a span takes up at least, but for the last of a segment, and how much
// is read at a time: so much and one body more.
const spanBytes = 128 << 10

// logIndex is where the entries are: 64 bytes for each 128 KiB of log, or for a segment
// that is smaller.
type logIndex struct {
	spans []span // in order and without a gap
	voids uint64 // how often entries were overwritten
}

// last returns the index of the last entry, 0 if there is none.
func (x *logIndex) last() uint64 {
	if len(x.spans) == 0 {
		return 0
	}
	return x.spans[len(x.spans)-1].last.index
}

// add takes note of a run that was written behind all else; what followed it is void.
func (x *logIndex) add(at segment.Place, r run) error {
	if len(x.spans) == 0 {
		x.spans = append(x.spans, span{r, at})
		return nil
	}
	if r.first.index > x.last()+1 {
		return gap(r.first.index, x.last())
	}
	if r.first.index <= x.last() {
		x.voids++
	}
	s := &x.spans[len(x.spans)-1]
	if s.at.Number == at.Number && s.at.To-s.at.From < spanBytes && r.first.index >= s.first.index {
		s.extend(at, r)
		return nil
	}
	for len(x.spans) > 0 && x.spans[len(x.spans)-1].first.index >= r.first.index {
		x.spans = x.spans[:len(x.spans)-1]
	}
	if n := len(x.spans); n > 0 && x.last() >= r.first.index {
		x.spans[n-1].end(r.first.index - 1)
	}
	x.spans = append(x.spans, span{r, at})
	return nil
}

// extend takes a run into the span, from the first entry's index or a later one on.
func (s *span) extend(at segment.Place, r run) {
	s.at.To = at.To
	if r.first.index == s.first.index {
		s.run = r
		return
	}
	s.last, s.mixed = r.last, s.mixed || r.mixed || r.first.term != s.first.term
}

// end makes an earlier entry the last.
func (s *span) end(last uint64) {
	s.last.index = last
	if s.last.term = s.first.term; s.mixed {
		s.last.term = 0
	}
}

// find returns the span of an entry that there is.
func (x *logIndex) find(i uint64) *span {
	return &x.spans[sort.Search(len(x.spans), func(n int) bool { return x.spans[n].last.index >= i })]
}

// drop forgets the spans whose entries are all up to the index.
func (x *logIndex) drop(to uint64) {
	n := sort.Search(len(x.spans), func(n int) bool { return x.spans[n].last.index > to })
	x.spans = slices.Delete(x.spans, 0, n)
}
