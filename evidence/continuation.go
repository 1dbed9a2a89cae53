package evidence

import (
	"errors"
	"fmt"

	"github.com/keystead/keystead"
)

// continuationMagic opens a continuation: a [Reference], and then a bundle's items, of
// which the logs go on from what it refers to. It only ever grows:
//
//	1  event log, IMA log, package list
const continuationMagic = "keystead-continuation/1"

// A Reference names what a verifier has of a host from before, so that it need not be
// sent again: logs only grow within a boot. The verifier holds it to what it replayed
// itself; what the host says here is believed in nothing.
type Reference struct {
	EventLog keystead.Digest // of the whole event log
	IMALog   keystead.Digest // of its first Bytes bytes
	Bytes    uint64          // at which an entry begins
	Entries  uint64          // before there, of all registers
	Packages keystead.Digest // of the package list's data; zero if there was none
}

// wireReference is its wire form.
type wireReference struct {
	EventLog []byte `cbor:"1,keyasint"`
	IMALog   []byte `cbor:"2,keyasint"`
	Bytes    uint64 `cbor:"3,keyasint"`
	Entries  uint64 `cbor:"4,keyasint"`
	Packages []byte `cbor:"5,keyasint,omitempty"`
}

// IsZero reports whether it refers to nothing.
func (r Reference) IsZero() bool { return r == Reference{} }

func (r Reference) wire() wireReference {
	w := wireReference{EventLog: r.EventLog[:], IMALog: r.IMALog[:], Bytes: r.Bytes, Entries: r.Entries}
	if !r.Packages.IsZero() {
		w.Packages = r.Packages[:]
	}
	return w
}

// reference reads the item that follows the magic.
func (b *Bundle) reference(rest []byte) ([]byte, error) {
	off := len(b.raw) - len(rest)
	var w wireReference
	rest, err := decMode.UnmarshalFirst(rest, &w)
	switch {
	case err != nil:
	case len(w.EventLog) != len(keystead.Digest{}) || len(w.IMALog) != len(keystead.Digest{}) || w.Packages != nil && len(w.Packages) != len(keystead.Digest{}):
		err = errors.New("has a digest that is not of 32 bytes")
	case w.Bytes == 0 || w.Bytes > MaxIMALog || w.Entries == 0 || w.Entries > w.Bytes:
		err = fmt.Errorf("names %d entries in %d bytes", w.Entries, w.Bytes)
	}
	if err != nil {
		return nil, formatError(off, "reference", err)
	}
	b.continues = Reference{EventLog: keystead.Digest(w.EventLog), IMALog: keystead.Digest(w.IMALog), Bytes: w.Bytes, Entries: w.Entries}
	if w.Packages != nil {
		b.continues.Packages = keystead.Digest(w.Packages)
	}
	return rest, nil
}

// whole refuses a continuation that brings what it refers to.
func (b *Bundle) whole() error {
	if b.continues.IsZero() {
		return nil
	}
	switch p := b.parts; {
	case p.EventLog != nil:
		return formatError(len(b.raw), "event-log", errors.New("is in a continuation, which refers to it"))
	case p.Packages != nil:
		return formatError(len(b.raw), "packages", errors.New("are in a continuation, which refers to them"))
	}
	return nil
}

// Continues returns what the bundle goes on from, and whether it does. The IMA log
// among its parts then is what follows, and has no entry if nothing does.
func (b Bundle) Continues() (Reference, bool) { return b.continues, !b.continues.IsZero() }

// Continue makes a continuation of parts that are whole. It fails where they do not go
// on from there, as far as their lengths and the package list tell.
func Continue(p Parts, from Reference) (Bundle, error) {
	if from.IsZero() || from.Bytes > uint64(len(p.IMALog)) {
		return Bundle{}, fmt.Errorf("a log of %d bytes does not go on after %d", len(p.IMALog), from.Bytes)
	}
	p.EventLog, p.IMALog = nil, p.IMALog[from.Bytes:]
	if list := p.Packages; list == nil != from.Packages.IsZero() || list != nil && keystead.Sum(list.Data) != from.Packages {
		return Bundle{}, errors.New("the package list has changed")
	}
	p.Packages = nil
	raw := append(must(encMode.Marshal(continuationMagic)), must(encMode.Marshal(from.wire()))...)
	return Parse(p.encode(raw))
}

// Complete returns a continuation with the parts that it refers to, under its own name,
// as a verifier that kept nothing judges it. It fails if they are others.
func (b Bundle) Complete(before Parts) (Bundle, error) {
	r, ok := b.Continues()
	if !ok {
		return b, nil
	}
	if uint64(len(before.IMALog)) < r.Bytes || keystead.Sum(before.IMALog[:r.Bytes]) != r.IMALog || keystead.Sum(before.EventLog) != r.EventLog {
		return Bundle{}, errors.New("the logs are not those that the continuation refers to")
	}
	out := b
	out.continues, out.parts.EventLog = Reference{}, before.EventLog
	out.parts.IMALog = append(before.IMALog[:r.Bytes:r.Bytes], b.parts.IMALog...)
	if !r.Packages.IsZero() {
		if before.Packages == nil || keystead.Sum(before.Packages.Data) != r.Packages {
			return Bundle{}, errors.New("the package list is not the one that the continuation refers to")
		}
		out.parts.Packages = before.Packages
	}
	return out, nil
}
