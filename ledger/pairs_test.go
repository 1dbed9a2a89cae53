package ledger_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// pairsOf names all pairs of a state, and returns a copy of them.
func pairsOf(t testing.TB, s *store) (keystead.Digest, *store) {
	t.Helper()
	h, out, last := sha256.New(), newStore(), ""
	err := ledger.NewView(s).Pairs(nil, func(k, v []byte) bool {
		if string(k) <= last {
			t.Errorf("%q after %q", k, last)
		}
		last = string(k)
		fmt.Fprintf(h, "%d %d ", len(k), len(v))
		h.Write(k)
		h.Write(v)
		out.m[last] = bytes.Clone(v)
		return true
	})
	must(t, err)
	return keystead.Digest(h.Sum(nil)), out
}

// TestPairsAndEntriesAreTheState: a store made of the pairs, and of the entries in runs, is
// one in which the machine goes on alike.
func TestPairsAndEntriesAreTheState(t *testing.T) {
	h := newHistory(t, 3, 700)
	h.position()
	want, taken := pairsOf(t, h.store)
	runs, err := ledger.NewView(h.store).Runs()
	must(t, err)
	must(t, runs.Verify())
	head, err := h.machine.Head(h.machine.Size())
	must(t, err)
	if runs.Root != head.Root || runs.Size != head.Size || len(runs.Hashes) < 2 {
		t.Fatalf("%d runs of root %v, want the root %v", len(runs.Hashes), runs.Root, head.Root)
	}
	leaves := ledger.NewLeaves(runs)
	for i, more := leaves.Next(); more; i, more = leaves.Next() {
		entries, err := ledger.NewView(h.store).Run(i)
		must(t, err)
		b := newBatch()
		must(t, leaves.Add(entries, b))
		taken.commit(b)
	}
	got, _ := pairsOf(t, taken)
	m, err := ledger.Open(taken, h.id)
	must(t, err)
	again, err := m.Head(m.Size())
	must(t, err)
	if got != want || again != head {
		t.Errorf("pairs %v and head %+v, want %v and %+v", got, again, want, head)
	}
	next := h.run(put("next", "1"))
	b := newBatch()
	out, err := m.Apply([]ledger.Committed{{Index: 1 << 40, Data: next}}, b)
	must(t, err)
	must(t, out.Results[0].Err)
	for k, v := range h.store.m { // what is not the same is no state: words of alarms
		if v2, ok := taken.m[k]; (!ok || !bytes.Equal(v, v2)) && k[0] != 'x' {
			t.Errorf("%q is %x, want %x", k, v2, v)
		}
	}
}

// TestLayoutsAgree: a store that has all values in their records, as those of before did,
// and alarms in other words, has the same pairs.
func TestLayoutsAgree(t *testing.T) {
	h := newHistory(t, 5, 700)
	h.raiseAlarm()
	long := func(c string) string { return strings.Repeat(c, 700) }
	h.ok(h.run(put("alone", long("a"))))
	h.ok(h.run(put("twice", "y"), put("twice", long("b")))) // the second counts
	h.ok(h.run(put("c1", long("c")), put("c2", long("d")), put("c3", long("e"))))
	p := proposal(78, "setting", "long-seconds", 0, "50")
	v := judge(p, 100)
	v.Writes[0].Value = []byte(long("f"))
	h.ok(p)
	h.ok(h.effective(v, "node-1", "node-2"))
	want, _ := pairsOf(t, h.store)
	older, inline, early := newStore(), 0, false
	for k, v := range h.store.m {
		older.m[k] = v
		switch k[0] {
		case 'j', 'k':
			read := ledger.NewView(h.store).Get
			if k[0] == 'j' {
				read = ledger.NewView(h.store).Judged
			}
			value, err := read(k[1:])
			must(t, err)
			if v[8] == 1 {
				older.m[k] = append(append(binary.BigEndian.AppendUint64(nil, value.Version), 0), value.Data...)
				inline++
			}
		case 'n':
			if bytes.Equal(v[56:], make([]byte, 13)) {
				older.m[k], early = v[:56], true
			}
		case 'x':
			older.m[k] = bytes.Replace(v, []byte("the verdict"), []byte("the version"), 1)
		}
	}
	if inline < 3 || !early || older.digest() == h.store.digest() {
		t.Fatalf("%d values were in their entries", inline)
	}
	if got, _ := pairsOf(t, older); got != want {
		t.Errorf("pairs %v, want %v", got, want)
	}
	for k, v := range older.m { // a value that its entry did not write is no other layout
		if in := h.store.m[k]; (k[0] == 'j' || k[0] == 'k') && in[8] == 1 {
			spoilt := bytes.Clone(v)
			spoilt[len(v)-1] ^= 1
			older.m[k] = spoilt
			err := ledger.NewView(older).Pairs(nil, func(_, _ []byte) bool { return true })
			var format *keystead.FormatError
			if !errors.As(err, &format) || format.Field != "value" {
				t.Errorf("a spoilt value: want a FormatError, got %v", err)
			}
			break
		}
	}
}

// raiseAlarm has two nodes sign different verdicts.
func (h *history) raiseAlarm() {
	p := proposal(77, "setting", "alarm-seconds", 0, "50")
	h.ok(p)
	for node, limit := range map[string]int{"node-1": 10, "node-2": 100} {
		e := h.endorse(node, judge(p, limit))
		h.ok(e.Entry())
	}
	if len(h.alarms) == 0 {
		h.t.Fatal("no alarm")
	}
}

// TestUnknownSpaceIsNoState: a build that does not know all of a state signs no digest of it.
func TestUnknownSpaceIsNoState(t *testing.T) {
	d := newDomain(t, 3)
	for _, k := range []string{"f", "y1", "\x00", "x123"} {
		d.store.m[k], d.store.keys = []byte("?"), nil
		err := ledger.NewView(d.store).Pairs(nil, func(_, _ []byte) bool { return true })
		var format *keystead.FormatError
		if !errors.As(err, &format) || format.Field != "key" {
			t.Errorf("%q: want a FormatError of the key, got %v", k, err)
		}
		delete(d.store.m, k)
	}
}

// TestForgedRuns: no entry is written that is not the tree's.
func TestForgedRuns(t *testing.T) {
	d := newDomain(t, 3)
	for i := range 600 {
		d.ok(d.run(put("k", strings.Repeat("v", i))))
	}
	view := ledger.NewView(d.store)
	good, err := view.Runs()
	must(t, err)
	for name, edit := range map[string]func(*ledger.Runs){
		"one less":       func(r *ledger.Runs) { r.Hashes = r.Hashes[:2] },
		"one more":       func(r *ledger.Runs) { r.Hashes = append(r.Hashes, keystead.Digest{1}) },
		"another":        func(r *ledger.Runs) { r.Hashes[1][0] ^= 1 },
		"exchanged":      func(r *ledger.Runs) { r.Hashes[0], r.Hashes[1] = r.Hashes[1], r.Hashes[0] },
		"a larger tree":  func(r *ledger.Runs) { r.Size += 1000 },
		"a smaller tree": func(r *ledger.Runs) { r.Size = 300 },
		"another root":   func(r *ledger.Runs) { r.Root[5] ^= 1 },
	} {
		r := good
		r.Hashes = append([]keystead.Digest(nil), good.Hashes...)
		edit(&r)
		t.Run(name, func(t *testing.T) { wantReason(t, r.Verify(), keystead.ReasonSnapshotUnproven) })
	}
	for name, edit := range map[string]func([][]byte) [][]byte{
		"swapped byte": func(e [][]byte) [][]byte { e[200] = flip(e[200], 30); return e },
		"exchanged":    func(e [][]byte) [][]byte { e[1], e[2] = e[2], e[1]; return e },
		"cut":          func(e [][]byte) [][]byte { return e[:255] },
		"longer":       func(e [][]byte) [][]byte { return append(e, e[0]) },
		"another run":  func([][]byte) [][]byte { e, _ := view.Run(1); return e },
		"none":         func([][]byte) [][]byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			entries, err := view.Run(0)
			must(t, err)
			b := newBatch()
			wantReason(t, ledger.NewLeaves(good).Add(edit(entries), b), keystead.ReasonSnapshotUnproven)
			if len(b.set) != 0 {
				t.Errorf("%d records were written", len(b.set))
			}
		})
	}
}

// TestEditedStore: who opens a store that was edited finds out: by the signatures that
// lead to the roster and over the tree; and no receipt is made of an edited entry.
func TestEditedStore(t *testing.T) {
	d := newDomain(t, 3)
	for i := range 300 {
		d.ok(d.run(put("k", strings.Repeat("v", i))))
	}
	d.ok(d.change(without("node-3"), "ada", "ben"))
	d.checkpoint("node-1", "node-2")
	edit := func(key string, edit func([]byte) []byte) *store {
		s := newStore()
		for k, v := range d.store.m {
			s.m[k] = v
		}
		s.m[key] = edit(s.m[key])
		return s
	}
	leafKey := func(n uint64) string { return "e" + string(binary.BigEndian.AppendUint64(nil, n)) }
	for name, s := range map[string]*store{
		"genesis":       edit(leafKey(0), func(b []byte) []byte { return bytes.Replace(b, []byte("name example"), []byte("name exampel"), 1) }),
		"roster change": edit(leafKey(301), func(b []byte) []byte { return bytes.Replace(b, []byte("threshold 2"), []byte("threshold 1"), 1) }),
		"a late leaf":   edit(leafKey(300), func(b []byte) []byte { return flip(b, len(b)-1) }),
		"a tile":        edit("m\x00"+string(make([]byte, 8)), func(b []byte) []byte { return flip(b, len(b)-1) }),
	} {
		if _, err := ledger.Open(s, d.id); err == nil {
			t.Errorf("%s was edited, and the store opened", name)
		}
	}
	s := edit(leafKey(7), func(b []byte) []byte { return flip(b, len(b)-1) }) // below a full tile, which is read only when it is needed
	if _, err := ledger.Open(s, d.id); err != nil {
		t.Fatal(err)
	}
	p, err := ledger.NewProver(s)
	must(t, err)
	_, err = p.Receipt(7)
	wantReason(t, err, keystead.ReasonStoreCorrupt)
	_, err = p.Receipt(8)
	must(t, err)
}

// climbed edits an entry of a store, and each hash of its tile from the leaf up to a level, as
// who has the disk of a node that is down can.
func climbed(s *store, leaf uint64, levels int) {
	entryKey := "e" + string(binary.BigEndian.AppendUint64(nil, leaf))
	tileKey := "m\x00" + string(binary.BigEndian.AppendUint64(nil, leaf/256))
	entry, tile := flip(s.m[entryKey], len(s.m[entryKey])-1), slices.Clone(s.m[tileKey])
	s.m[entryKey], s.m[tileKey] = entry, tile
	h, first, width := receipt.LeafHash(entry), uint64(0), uint64(256)
	for level, i := 0, leaf%256; level < levels; level, i = level+1, i/2 {
		copy(tile[(first+i)*32:], h[:])
		if level < 8 {
			h = sha256.Sum256(append([]byte{1}, tile[(first+i&^1)*32:][:64]...))
		}
		first, width = first+width, width/2
	}
}

// TestEditedEntries: whoever reads an entry, or a value that is kept in one, gets what the
// tree has or a refusal, however much of the entry's tile was edited with it. To edit more
// is found out when the store is opened.
func TestEditedEntries(t *testing.T) {
	const leaf, growth = 270, 600 // in the second tile
	for name, signed := range map[string]uint64{"signed after the tile": growth, "signed within the tile": 300} {
		d := newDomain(t, 3)
		for i := uint64(1); i < growth; i++ {
			d.ok(d.run(put(fmt.Sprint("k", i), strings.Repeat("v", 300))))
			if i+1 == signed {
				d.checkpoint("node-1", "node-2")
			}
		}
		read := map[string]func(ledger.View) error{
			"entry": func(v ledger.View) error { _, err := v.Entry(leaf); return err },
			"value": func(v ledger.View) error { _, err := v.Get(fmt.Sprint("kv/k", leaf)); return err },
			"list":  func(v ledger.View) error { return v.Keys("kv/", func(string, ledger.Value) bool { return true }) },
		}
		for levels := range 10 {
			s := newStore()
			for k, v := range d.store.m {
				s.m[k] = v
			}
			climbed(s, leaf, levels)
			_, opened := ledger.Open(s, d.id)
			for what, read := range read {
				must(t, read(ledger.NewView(d.store)))
				err := read(ledger.NewView(s))
				if !errors.Is(err, keystead.ReasonStoreCorrupt) && !errors.Is(opened, keystead.ReasonCheckpointConflict) {
					t.Errorf("%s, %s, %d levels edited: the store opens (%v), and reads (%v)", name, what, levels, opened, err)
				}
			}
			if whole := levels == 9; whole != errors.Is(opened, keystead.ReasonCheckpointConflict) && signed == growth {
				t.Errorf("%s, %d levels edited: opening says %v", name, levels, opened)
			}
		}
		delete(d.store.m, "m\x00"+string(binary.BigEndian.AppendUint64(nil, leaf/256)))
		for what, read := range read {
			if err := read(ledger.NewView(d.store)); !errors.Is(err, keystead.ReasonStoreCorrupt) {
				t.Errorf("%s, %s, without the tile: %v", name, what, err)
			}
		}
	}
}
