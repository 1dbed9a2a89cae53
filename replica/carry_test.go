package replica

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// vault is a portable state machine. Commands: "P" makes a position, "e" and more is an
// entry of its tree, which is one of runs of runWidth, and "KEY=N" puts N bytes at a key.
type vault struct{ opened uint64 }

const runWidth = 3

func (m *vault) Open(_ View, applied uint64) error { m.opened = applied; return nil }
func (m *vault) Position(c []byte) bool            { return string(c) == "P" }

func (m *vault) Apply(w *Batch, commands []Command, results [][]byte) ([][]byte, error) {
	b, _, err := w.Get([]byte("size"))
	size := uint64(0)
	if len(b) == 8 {
		size = binary.BigEndian.Uint64(b)
	}
	for _, c := range commands {
		key, n, put := strings.Cut(string(c.Data), "=")
		switch {
		case m.Position(c.Data):
			w.Set([]byte("at"), be64(c.Index))
		case put:
			n, _ := strconv.Atoi(n)
			w.Set([]byte("p/"+key), bytes.Repeat([]byte(key), n/len(key)))
		default:
			w.Set(append([]byte("e/"), be64(size)...), c.Data)
			size++
			w.Set([]byte("size"), be64(size))
		}
		results = append(results, nil)
	}
	return results, err
}

func (m *vault) Positions(v View) (Positions, error) {
	b, ok, err := v.Get([]byte("at"))
	if err != nil || !ok {
		return Positions{InUse: true}, err
	}
	return Positions{InUse: true, Newest: binary.BigEndian.Uint64(b)}, nil
}

func (m *vault) Pairs(v View, from []byte, yield func(key, value []byte) bool) error {
	return v.Scan(from, nil, func(k, b []byte) bool { return bytes.HasPrefix(k, []byte("e/")) || yield(k, b) })
}

func (m *vault) Run(v View, i uint64) (out [][]byte, err error) {
	err = v.Scan(append([]byte("e/"), be64(i*runWidth)...), append([]byte("e/"), be64((i+1)*runWidth)...), func(_, b []byte) bool {
		out = append(out, bytes.Clone(b))
		return true
	})
	return out, err
}

func sumRun(entries [][]byte) keystead.Digest { return keystead.Sum(fmt.Appendf(nil, "%q", entries)) }

func (m *vault) Outline(v View) (o Outline, err error) {
	b, _, err := v.Get([]byte("size"))
	if err != nil || len(b) != 8 {
		return o, err
	}
	o.Size, o.Proof = binary.BigEndian.Uint64(b), []byte("who may vouch")
	for i := uint64(0); i*runWidth < o.Size; i++ {
		entries, err := m.Run(v, i)
		if err != nil {
			return o, err
		}
		o.Runs = append(o.Runs, sumRun(entries))
	}
	o.Root = sumOf(o.Runs)
	return o, nil
}

func (m *vault) Take(o Outline) (Taker, error) {
	if sumOf(o.Runs) != o.Root {
		return nil, unproven("runs", "those of the root", "others")
	}
	return &vaultTaker{o: o}, nil
}

type vaultTaker struct {
	o Outline
	n uint64
}

func (k *vaultTaker) Add(w *Batch, entries [][]byte) error {
	if sumRun(entries) != k.o.Runs[k.n] {
		return unproven("run", "the tree's", "another")
	}
	for i, e := range entries {
		w.Set(append([]byte("e/"), be64(k.n*runWidth+uint64(i))...), e)
	}
	k.n++
	return nil
}

func (k *vaultTaker) Done(v View) error {
	o, err := (&vault{}).Outline(v)
	if err == nil && (o.Root != k.o.Root || !bytes.Equal(o.Proof, k.o.Proof)) {
		err = unproven("proof", "the state's own", "another")
	}
	return err
}

// vaultStore is a founder's store of a vault.
func vaultStore(t testing.TB, fs vfs.FS, edit func(*StoreOptions)) *Store {
	t.Helper()
	o := StoreOptions{FS: fs, Dir: "data", Machine: &vault{}, MemTableBytes: 1 << 20}
	if edit != nil {
		edit(&o)
	}
	s, err := OpenStore(o)
	if err == nil && s.ID() == 0 {
		err = s.Bootstrap(1, []Member{{Key: keystead.Sum([]byte("a"))}, {Key: keystead.Sum([]byte("b"))}})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// runCommands appends and applies commands, one in an entry.
func runCommands(t testing.TB, s *Store, commands ...string) {
	t.Helper()
	var ents []*pb.Entry
	for _, c := range commands {
		i := s.Applied() + uint64(len(ents)) + 1
		ents = append(ents, entry(i, i, c))
	}
	err := s.Append(&pb.Message{Entries: ents, Responses: []*pb.Message{{}}})
	if err == nil {
		_, err = s.Apply(&pb.Message{Entries: ents})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// vaultCommands make a state of some chunks and runs, with a position in the end.
var vaultCommands = []string{"a=3000000", "b=3000000", "e1", "c=1000", "e2", "e3", "e4", "d=300000", "e5", "P"}

// stable returns a store with a stable position, the header of the state there, and the
// stream by which it travels.
func stable(t testing.TB, fs vfs.FS, commands ...string) (*Store, StateHeader, []byte) {
	t.Helper()
	var at []*Held
	s := vaultStore(t, fs, func(o *StoreOptions) { o.Positioned = func(h *Held) { at = append(at, h) } })
	runCommands(t, s, commands...)
	h, err := at[len(at)-1].Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s.Stable(h.Index)
	return s, h, carried(t, s)
}

func carried(t testing.TB, s *Store) []byte {
	t.Helper()
	c, err := s.Carry()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := errors.Join(c.WriteTo(&b), c.Done()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// installed has a store take a snapshot, as raft does.
func installed(t testing.TB, s *Store, stream []byte) {
	t.Helper()
	meta, err := s.Receive(context.Background(), bytes.NewReader(stream))
	if err == nil {
		err = s.Append(&pb.Message{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(meta.GetIndex()), Snapshot: &pb.Snapshot{Metadata: meta}, Responses: []*pb.Message{{}}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestStableStateTravels: the state at a position, and not one byte of after it, comes to
// a member, which then comes to the same digests.
func TestStableStateTravels(t *testing.T) {
	from, header, stream := stable(t, vfs.NewMem(), vaultCommands...)
	if header.Chunks < 2 || len(carriedList(t, stream).outline.Runs) != 2 {
		t.Fatalf("%+v", header)
	}
	runCommands(t, from, "late=9", "e6", "a=2", "P")
	if again := carried(t, from); !bytes.Equal(stream, again) {
		t.Error("the state at the position has changed since")
	}
	var seen []*Held
	to := vaultStore(t, vfs.NewMem(), func(o *StoreOptions) {
		o.Positioned = func(h *Held) { seen = append(seen, h) }
		o.Approve = func(_ context.Context, h StateHeader, proof []byte) error {
			if h != header || string(proof) != "who may vouch" {
				return fmt.Errorf("asked to approve %+v, %q", h, proof)
			}
			return nil
		}
	})
	installed(t, to, stream)
	if to.Applied() != header.Index || to.opts.Machine.(*vault).opened != header.Index {
		t.Fatalf("applied %d, machine opened at %d", to.Applied(), to.opts.Machine.(*vault).opened)
	}
	runCommands(t, to, "late=9", "e6", "a=2", "P")
	got, err := seen[0].Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want, err := from.held[len(from.held)-1].Read(context.Background())
	if err != nil || got != want || got.Digest() != want.Digest() {
		t.Errorf("want %+v, got %+v, %v", want, got, err)
	}
}

// carriedList reads a stream's list.
func carriedList(t testing.TB, stream []byte) *stateList {
	t.Helper()
	l, _, err := unpack(stream)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestOffersWhatIsStable: there is nothing to send before a majority signed, after a
// restart, or for members who came later; and files never.
func TestOffersWhatIsStable(t *testing.T) {
	var at []*Held
	wanted := 0
	fs := vfs.NewMem()
	edit := func(o *StoreOptions) {
		o.Positioned = func(h *Held) { at = append(at, h) }
		o.Wanted = func() { wanted++ }
	}
	s := vaultStore(t, fs, edit)
	offers := func(want uint64) {
		t.Helper()
		before := wanted
		snap, err := s.Snapshot()
		c, carryErr := s.Carry()
		if carryErr == nil {
			c.Done()
		}
		if want == 0 && (err == nil || carryErr == nil || wanted != before+1) || want != 0 && (snap.GetMetadata().GetIndex() != want || c.Metadata.GetIndex() != want) {
			t.Errorf("want %d, got %v, %v, %v; wanted %d times", want, snap, err, carryErr, wanted-before)
		}
	}
	offers(0)
	runCommands(t, s, "a=10", "P", "b=10")
	offers(0)
	s.Stable(at[0].Index())
	offers(0) // not read through
	first := at[0].Index()
	if _, err := at[0].Read(context.Background()); err != nil {
		t.Fatal(err)
	}
	offers(first)
	runCommands(t, s, "P", "c=1", "P", "d=1", "P") // none of them stable: two are kept beside the stable one
	offers(first)
	if len(s.held) != 3 || s.held[0].Index() != first {
		t.Errorf("%d states are kept", len(s.held))
	}
	if _, err := at[1].Read(context.Background()); !errors.Is(err, keystead.ReasonPositionUnknown) {
		t.Errorf("a state that was let go: %v", err)
	}
	c, err := s.Carry() // one that is sent stays until it is
	if err != nil {
		t.Fatal(err)
	}
	if _, err := at[3].Read(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.Stable(at[3].Index())
	if err := c.WriteTo(&bytes.Buffer{}); err != nil {
		t.Error(err)
	}
	if err := errors.Join(c.Done(), at[0].read(nil)); !errors.Is(err, keystead.ReasonPositionUnknown) {
		t.Errorf("a state that was sent: %v", err)
	}
	offers(at[3].Index())
	s.mu.Lock()
	s.members = &Membership{Members: append(slices.Clone(s.members.Members), Member{ID: 9}), conf: s.members.conf}
	s.mu.Unlock()
	offers(0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = vaultStore(t, fs, edit)
	offers(0)
}

// TestForgedSnapshots: a member that sends a snapshot of its own making is refused, for
// this reason, before anything of it is written; the state of before stays as it was.
func TestForgedSnapshots(t *testing.T) {
	_, header, stream := stable(t, vfs.NewMem(), vaultCommands...)
	_, _, foreign := stable(t, vfs.NewMem(), append([]string{"z=777"}, vaultCommands...)...)
	other, foreignParts, err := unpack(foreign)
	if err != nil {
		t.Fatal(err)
	}
	fs := vfs.NewMem()
	to := vaultStore(t, fs, func(o *StoreOptions) {
		o.Approve = func(_ context.Context, h StateHeader, _ []byte) error { // as a majority would
			if h.Digest() != header.Digest() {
				return unproven("state", header.Digest().String(), "%v", h.Digest())
			}
			return nil
		}
	})
	runCommands(t, to, "own=5")
	list := func() []string {
		names, err := fs.List("data")
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		return names
	}
	names := list()
	inChunk := func(p *parts, old, new string) {
		for i := range p.chunks {
			if bytes.Contains(p.chunks[i], []byte(old)) {
				p.chunks[i] = bytes.Replace(p.chunks[i], []byte(old), []byte(new), 1)
				return
			}
		}
		t.Fatalf("%q is in no chunk", old)
	}
	swap := func(p *parts, at string) { // a byte of the value of a key
		for i := range p.chunks {
			if j := bytes.Index(p.chunks[i], []byte(at)); j >= 0 {
				p.chunks[i][j+len(at)+4+3] ^= 1
				return
			}
		}
		t.Fatalf("%q is in no chunk", at)
	}
	unproven, malformed := keystead.ReasonSnapshotUnproven, keystead.ReasonMalformed
	for name, tc := range map[string]struct {
		lie    func(*stateList, *parts)
		listed bool // the list is made to fit the lie
		want   keystead.Reason
	}{
		"one value":                    {func(_ *stateList, p *parts) { inChunk(p, "cccc", "cdcc") }, false, unproven},
		"one value, and the list":      {func(_ *stateList, p *parts) { inChunk(p, "cccc", "cdcc") }, true, unproven},
		"membership":                   {func(_ *stateList, p *parts) { swap(p, "r/membership") }, true, unproven},
		"origins":                      {func(_ *stateList, p *parts) { swap(p, "r/o/\x00\x00\x00\x00\x00\x00\x00\x01") }, true, unproven},
		"applied index":                {func(_ *stateList, p *parts) { swap(p, "r/applied") }, true, unproven},
		"chain":                        {func(_ *stateList, p *parts) { swap(p, "r/chain") }, true, unproven},
		"a chunk of another state":     {func(_ *stateList, p *parts) { p.chunks[0] = foreignParts.chunks[0] }, false, unproven},
		"chunks exchanged":             {func(_ *stateList, p *parts) { p.chunks[0], p.chunks[1] = p.chunks[1], p.chunks[0] }, false, unproven},
		"chunks exchanged, and listed": {func(_ *stateList, p *parts) { p.chunks[0], p.chunks[1] = p.chunks[1], p.chunks[0] }, true, unproven},
		"a chunk cut short":            {func(_ *stateList, p *parts) { p.chunks[1] = p.chunks[1][:900] }, false, unproven},
		"a chunk left out":             {func(_ *stateList, p *parts) { p.chunks = p.chunks[1:] }, false, unproven},
		"a chunk left out, and listed": {func(_ *stateList, p *parts) { p.chunks = p.chunks[1:] }, true, unproven},
		"one chunk of all":             {func(_ *stateList, p *parts) { p.chunks = [][]byte{bytes.Join(p.chunks, nil)} }, true, malformed},
		"a hash of the list":           {func(l *stateList, _ *parts) { l.chunks[0][3] ^= 1 }, false, unproven},
		"the sum of the list":          {func(l *stateList, _ *parts) { l.header.Sum[3] ^= 1 }, false, unproven},
		"the bytes":                    {func(l *stateList, _ *parts) { l.header.Bytes++ }, false, unproven},
		"the index":                    {func(l *stateList, _ *parts) { l.header.Index++ }, false, unproven},
		"the term":                     {func(l *stateList, _ *parts) { l.header.Term++ }, false, unproven},
		"the log's chain":              {func(l *stateList, _ *parts) { l.header.Chain[0] ^= 1 }, false, unproven},
		"another list":                 {func(l *stateList, p *parts) { *l, *p = *other, *foreignParts }, false, unproven},
		"an entry":                     {func(_ *stateList, p *parts) { p.runs[0][1] = []byte("eX") }, false, unproven},
		"entries exchanged":            {func(_ *stateList, p *parts) { p.runs[0][0], p.runs[0][1] = p.runs[0][1], p.runs[0][0] }, false, unproven},
		"an entry less":                {func(_ *stateList, p *parts) { p.runs[1] = p.runs[1][:1] }, false, unproven},
		"an entry more":                {func(_ *stateList, p *parts) { p.runs[1] = append(p.runs[1], []byte("e9")) }, false, unproven},
		"a run left out":               {func(_ *stateList, p *parts) { p.runs = p.runs[:1] }, false, malformed},
		"a hash of a run":              {func(l *stateList, _ *parts) { l.outline.Runs[1][0] ^= 1 }, false, unproven},
		"the root":                     {func(l *stateList, _ *parts) { l.header.Root[0] ^= 1 }, false, unproven},
		"the size":                     {func(l *stateList, _ *parts) { l.header.Size++ }, false, unproven},
		"who may vouch":                {func(l *stateList, _ *parts) { l.outline.Proof = []byte("nobody") }, false, unproven},
		"chunks without end":           {func(l *stateList, _ *parts) { l.header.Chunks, l.header.Bytes = 1<<60, 1 }, false, malformed},
		"bytes without end":            {func(l *stateList, _ *parts) { l.header.Bytes = 1 << 60 }, false, malformed},
	} {
		t.Run(name, func(t *testing.T) {
			l, p, err := unpack(stream)
			if err != nil {
				t.Fatal(err)
			}
			tc.lie(l, p)
			if tc.listed {
				l.relist(p.chunks)
			}
			_, err = to.Receive(context.Background(), bytes.NewReader(p.pack(l)))
			var format *keystead.FormatError
			if tc.want == malformed && !errors.As(err, &format) || tc.want != malformed && !errors.Is(err, tc.want) {
				t.Errorf("want %s, got %v", tc.want, err)
			}
			if now := list(); !slices.Equal(now, names) {
				t.Errorf("files %v, want %v", now, names)
			}
		})
	}
	var files bytes.Buffer // of a state, as members that have no positions send it
	cp, err := to.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cp.WriteTo(&files); err != nil {
		t.Fatal(err)
	}
	if err := cp.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := to.Receive(context.Background(), &files); !errors.Is(err, unproven) {
		t.Errorf("files: want %s, got %v", unproven, err)
	}
	runCommands(t, to, "own=6", "P")
	installed(t, to, stream)
}

// parts are what a stream carries after its list.
type parts struct {
	chunks [][]byte
	runs   [][][]byte
}

// unpack takes a stream apart, as it was packed.
func unpack(stream []byte) (*stateList, *parts, error) {
	in := &listReader{r: bufio.NewReader(bytes.NewReader(stream))}
	l, err := in.list()
	if err != nil {
		return nil, nil, err
	}
	p := &parts{}
	for range l.chunks {
		p.chunks = append(p.chunks, in.bytes(int(in.number(4, 1<<30, "")), "", nil))
	}
	for range l.outline.Runs {
		run := make([][]byte, in.number(4, 1<<10, ""))
		for i := range run {
			run[i] = in.bytes(int(in.number(4, 1<<20, "")), "", nil)
		}
		p.runs = append(p.runs, run)
	}
	return l, p, in.err
}

func (p *parts) pack(l *stateList) []byte {
	var b bytes.Buffer
	b.Write(l.append(nil))
	for _, c := range p.chunks {
		writeSized(&b, c)
	}
	for _, r := range p.runs {
		b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(r))))
		for _, e := range r {
			writeSized(&b, e)
		}
	}
	return b.Bytes()
}

// relist has the list say what the chunks are.
func (l *stateList) relist(chunks [][]byte) {
	l.chunks, l.header.Bytes = nil, 0
	for _, c := range chunks {
		l.chunks = append(l.chunks, keystead.Sum(c))
		l.header.Bytes += uint64(len(c))
	}
	l.header.Chunks, l.header.Sum = uint64(len(chunks)), sumOf(l.chunks)
}

// TestStreamBroken: a stream that was altered or cut anywhere is not taken in.
func TestStreamBroken(t *testing.T) {
	_, header, stream := stable(t, vfs.NewMem(), "a=300", "e1", "e2", "e3", "e4", "P")
	to := vaultStore(t, vfs.NewMem(), func(o *StoreOptions) {
		o.Approve = func(_ context.Context, h StateHeader, _ []byte) error {
			if h.Digest() != header.Digest() {
				return unproven("state", "another", "this")
			}
			return nil
		}
	})
	for at := range stream {
		broken := bytes.Clone(stream)
		broken[at] ^= 1 << (at % 8)
		if _, err := to.Receive(context.Background(), bytes.NewReader(broken)); err == nil {
			t.Errorf("byte %d of %d altered, and taken in", at, len(stream))
		}
		if _, err := to.Receive(context.Background(), bytes.NewReader(stream[:at])); err == nil {
			t.Errorf("cut at %d, and taken in", at)
		}
	}
	installed(t, to, stream)
}

// FuzzCarried gives the receiver any bytes: it takes in nothing but the state that a
// majority signed, and leaves nothing else behind.
func FuzzCarried(f *testing.F) {
	_, header, stream := stable(f, vfs.NewMem(), "a=300", "e1", "e2", "e3", "e4", "P")
	f.Add(stream)
	f.Add(stream[:200])
	f.Add(stream[:len(stream)-1])
	f.Add([]byte(carryMagic))
	f.Add([]byte(snapshotMagic))
	fs := vfs.NewMem()
	to := vaultStore(f, fs, func(o *StoreOptions) {
		o.Approve = func(_ context.Context, h StateHeader, _ []byte) error {
			if h.Digest() != header.Digest() {
				return unproven("state", "another", "this")
			}
			return nil
		}
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := to.Receive(context.Background(), bytes.NewReader(b))
		if err == nil && !bytes.HasPrefix(b, stream) {
			t.Error("taken in")
		}
		if names, _ := fs.List("data"); err != nil && len(names) > 4 {
			t.Errorf("left behind: %v", names)
		}
	})
}

// BenchmarkTake takes in a state of 64 MiB on a real disk, beside what writing as many
// bytes to a file and syncing it takes: a state goes to disk once, and is hashed.
func BenchmarkTake(b *testing.B) {
	var commands []string
	for i := range 512 {
		commands = append(commands, fmt.Sprintf("%04d=%d", i, 128<<10))
	}
	_, header, stream := stable(b, vfs.NewMem(), append(commands, "e1", "P")...)
	b.Run("take", func(b *testing.B) {
		b.SetBytes(int64(header.Bytes))
		for range b.N {
			to := vaultStore(b, vfs.Default, func(o *StoreOptions) { o.Dir, o.MemTableBytes = b.TempDir(), 64<<20 })
			if _, err := to.Receive(context.Background(), bytes.NewReader(stream)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("disk", func(b *testing.B) {
		b.SetBytes(int64(len(stream)))
		for range b.N {
			f, err := vfs.Default.Create(b.TempDir()+"/f", vfs.WriteCategoryUnspecified)
			if err == nil {
				_, err = f.Write(bytes.Clone(stream))
			}
			if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) { // what a node does at a position
		s := vaultStore(b, vfs.Default, func(o *StoreOptions) { o.Dir, o.MemTableBytes = b.TempDir(), 64<<20 })
		installed(b, s, stream)
		b.SetBytes(int64(header.Bytes))
		for range b.N {
			h, err := s.Offer()
			if err == nil {
				_, err = h.Read(context.Background())
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkPositions puts values of 4 KiB over a state of 64 MiB, with a position each time
// that as much was written as the state has, and without. The log is on the same disk.
func BenchmarkPositions(b *testing.B) {
	for _, every := range []int{0, 256} {
		b.Run(fmt.Sprint("every ", every), func(b *testing.B) {
			var reading sync.WaitGroup
			s := vaultStore(b, vfs.Default, func(o *StoreOptions) {
				o.Dir, o.MemTableBytes = b.TempDir(), 64<<20
				o.Positioned = func(h *Held) {
					reading.Go(func() {
						if _, err := h.Read(context.Background()); err != nil {
							b.Error(err)
						}
						s := h.store
						s.Stable(h.Index())
					})
				}
			})
			put := func(n int) {
				commands := make([]string, 64)
				for i := range commands {
					commands[i] = fmt.Sprintf("%06d=4096", (64*n+i)%(16<<10))
				}
				at := s.Applied() + 1
				e := []*pb.Entry{entry(at, at, commands...)}
				if every > 0 && n%every == every-1 {
					e = append(e, entry(at+1, at+1, "P"))
				}
				err := s.Append(&pb.Message{Entries: e, Responses: []*pb.Message{{}}})
				if err == nil {
					_, err = s.Apply(&pb.Message{Entries: e})
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			for n := range 256 {
				put(n)
			}
			reading.Wait()
			b.SetBytes(64 * 4096)
			b.ResetTimer()
			for n := range b.N {
				put(n)
			}
			b.StopTimer()
			reading.Wait()
		})
	}
}
