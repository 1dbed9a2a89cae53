package segment

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Open reads the log and shows the body of every head and batch in force to visit,
// in order; a body is valid during the call, and its place is for Read. An end that a crash can have torn is left out. All else that is
// not what was written is a [keystead.FormatError], with nothing changed on disk.
func Open(opts Options, visit func(at Place, body []byte) (Note, error)) (*Log, error) {
	l := &Log{opts: opts, next: 1}
	numbers, err := l.list()
	if err != nil {
		return nil, err
	}
	if len(numbers) > 0 {
		l.next = numbers[0] + 1
	}
	heads, err := l.heads(numbers)
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		if !slices.ContainsFunc(heads, func(h head) bool { return h.number == n }) {
			l.free = append(l.free, l.path(n))
		}
	}
	var buf []byte
	for i, h := range heads {
		var next *head
		if i+1 < len(heads) {
			next = &heads[i+1]
		}
		if buf, err = l.bytes(buf, h.number, 1<<62); err != nil {
			return nil, err
		}
		if err := l.read(buf, h, next, visit); err != nil {
			return nil, fmt.Errorf("%s: %w", l.path(h.number), err)
		}
	}
	return l, l.checkMark()
}

// list returns the numbers of the segments that there are, the newest first.
func (l *Log) list() (numbers []uint64, err error) {
	names, err := l.opts.FS.List(l.opts.Dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, ".log")
		if n, err := strconv.ParseUint(digits, 16, 64); ok && err == nil && n > 0 && name == fmt.Sprintf("%016x.log", n) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	return numbers, nil
}

// heads returns the heads of the segments in force, oldest first, of the numbers that
// there are, newest first.
func (l *Log) heads(numbers []uint64) (heads []head, err error) {
	if len(numbers) == 0 {
		return nil, nil
	}
	h, ok, err := l.head(numbers[0])
	if err != nil {
		return nil, err
	}
	if !ok { // a crash in roll, unless something stands behind that head
		if err := l.unborn(numbers[0]); err != nil || len(numbers) == 1 {
			return nil, err
		}
		if h, err = l.mustHead(numbers[1]); err != nil {
			return nil, err
		}
	}
	heads = append(heads, h)
	for first := h.first; h.number != first; {
		if h.prev < first {
			return nil, fmt.Errorf("%s: %w", l.path(h.number), bad(0, "head", fmt.Sprintf("names segment %d before it, and a later one %d as the first needed", h.prev, first)))
		}
		if h, err = l.mustHead(h.prev); err != nil {
			return nil, err
		}
		heads = append(heads, h)
	}
	slices.Reverse(heads)
	return heads, nil
}

func (l *Log) head(number uint64) (h head, ok bool, err error) {
	b, err := l.bytes(nil, number, headSize+maxHead)
	if err != nil {
		return h, false, err
	}
	if h, ok, err = parseHead(b, number); err != nil {
		err = fmt.Errorf("%s: %w", l.path(number), err)
	}
	return h, ok, err
}

func (l *Log) mustHead(number uint64) (head, error) {
	h, ok, err := l.head(number)
	if err == nil && !ok {
		err = fmt.Errorf("%s: %w", l.path(number), bad(0, "head", "is not what was written"))
	}
	return h, err
}

// unborn checks that nothing was ever written behind the head of the newest segment.
func (l *Log) unborn(number uint64) error {
	b, err := l.bytes(nil, number, 1<<62)
	if err != nil {
		return err
	}
	if _, found := claimed(b, number, 0); found {
		return fmt.Errorf("%s: %w", l.path(number), bad(0, "head", "is not what was written, and batches follow it"))
	}
	return nil
}

// read shows the bodies of a segment whose file is b. Those of all but the last were synced before the
// next head was written.
func (l *Log) read(b []byte, h head, next *head, visit func(Place, []byte) (Note, error)) error {
	l.chain = append(l.chain, part{number: h.number})
	show := func(at Place, body []byte) error {
		note, err := visit(at, body)
		if note.Void {
			for i := range l.chain {
				l.chain[i].index = 0
			}
		}
		l.last().note(note)
		return err
	}
	if err := show(Place{Number: h.number, To: h.end()}, h.body); err != nil {
		return err
	}
	limit := uint64(len(b))
	if next != nil {
		if next.prevEnd > limit || next.prevEnd < h.end() {
			return bad(limit, "length", fmt.Sprintf("the next segment says it ends at %d", next.prevEnd))
		}
		limit = next.prevEnd
	}
	end, err := walk(b[h.end():limit], Place{h.number, h.end(), limit}, show)
	if err != nil {
		return err
	}
	if next != nil && end != limit {
		return bad(end, "batch", fmt.Sprintf("is not what was written, where the next segment says that batches go on to %d", limit))
	}
	if next == nil {
		if synced, found := claimed(b, h.number, end); found {
			return bad(end, "batch", fmt.Sprintf("is not what was written, where a later one says that all up to %d was synced", synced))
		}
	}
	l.last().end = end
	return nil
}

// checkMark compares the end with the mark.
func (l *Log) checkMark() error {
	number, offset, err := l.readMark()
	if err != nil || number == 0 {
		return err
	}
	var last part
	if len(l.chain) > 0 {
		last = *l.last()
	}
	if last.number < number || last.number == number && last.end < offset {
		return fmt.Errorf("%s: %w", l.path(number), bad(last.end, "end", fmt.Sprintf("the log was synced up to %d of segment %d and ends at %d of %d", offset, number, last.end, last.number)))
	}
	return nil
}

// bytes reads the file of a segment, or the first most of it, into buf if it has room.
func (l *Log) bytes(buf []byte, number, most uint64) ([]byte, error) {
	f, err := l.opts.FS.Open(l.path(number))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", l.path(number), bad(0, "file", "is missing, and a later segment needs it"))
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	n := int(min(most, uint64(info.Size())))
	b := slices.Grow(buf[:0], n)[:n]
	_, err = io.ReadFull(f, b)
	return b, errors.Join(err, f.Close())
}
