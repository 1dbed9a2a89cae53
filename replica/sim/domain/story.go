package domain

import (
	"encoding/binary"
	"slices"

	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/replica/sim"
	pb "go.etcd.io/raft/v3/raftpb"
)

// story is another log that the liar, as leader, tells some followers. It keeps a store
// and a ledger for it, so that it signs to them what they have themselves.
type story struct {
	l       *liar
	victims map[*sim.Host]bool
	store   *replica.Store
	machine *machine
	first   uint64 // index of the first entry that may differ
	entries []*pb.Entry
	late    bool // it can not begin where it was to
}

// tell begins a story for some of the others.
func (l *liar) tell() {
	m := &machine{id: l.d.id, suspended: map[string]bool{}}
	store, err := l.n.host.Clone(m)
	if err != nil {
		l.d.c.Fail("story: %v", err)
		return
	}
	last, err := store.LastIndex()
	if err == nil && last > store.Applied() {
		var entries []*pb.Entry
		if entries, err = store.Entries(store.Applied()+1, last+1, 1<<30); err == nil {
			_, err = store.Apply(&pb.Message{Entries: entries})
		}
	}
	if err != nil {
		l.d.c.Fail("story: %v", err)
		return
	}
	st := &story{l: l, victims: map[*sim.Host]bool{}, store: store, machine: m, first: last + 1}
	k := 1 + l.rng.IntN(len(l.d.nodes)-2)
	if l.d.opts.Evict {
		k = 1 // a majority is left that can end it
	}
	for _, i := range l.rng.Perm(len(l.d.nodes) - 1)[:k] {
		st.victims[l.d.nodes[i].host] = true
		l.d.c.Trace("the liar tells %s another story from entry %d on", l.d.nodes[i].name, st.first)
	}
	l.story = st
}

func (st *story) close() {
	if err := st.store.Close(); err != nil {
		st.l.d.c.Fail("story: %v", err)
	}
}

func (st *story) standing() standing { return standing{st.store, st.machine} }

// retell puts the story's entries into a message to one whom it is told.
func (st *story) retell(to *sim.Host, m *pb.Message) {
	if !st.victims[to] {
		return
	}
	for i, e := range m.GetEntries() {
		if x := st.entry(e); x != nil {
			m.Entries[i] = x
		}
	}
}

// entry returns the story's entry in the place of one; nil where it has none.
func (st *story) entry(e *pb.Entry) *pb.Entry {
	at := e.GetIndex()
	next := st.first + uint64(len(st.entries))
	switch {
	case at > next && len(st.entries) == 0: // others were on their way already
		st.late = true
		return nil
	case at < st.first || at > next:
		return nil
	case at < next:
		x := st.entries[at-st.first]
		if x.GetTerm() != e.GetTerm() {
			return nil // the story is over
		}
		return x
	}
	x := &pb.Entry{Type: e.Type, Index: e.Index, Term: e.Term, Data: st.invent(e)}
	st.entries = append(st.entries, x)
	if _, err := st.store.Apply(&pb.Message{Entries: []*pb.Entry{x}}); err != nil {
		st.l.d.c.Trace("the liar's story breaks off: %v", err)
		st.victims = nil
		return nil
	}
	st.l.told(Fork)
	st.l.d.note(st.l.n, st.store)
	return x
}

// invent is what an entry becomes: suspensions and others' votes are left out, values
// are altered, and the liar votes for the tree that its victims have.
func (st *story) invent(e *pb.Entry) []byte {
	b, ok := parseBatch(e.GetData())
	if !ok || e.GetType() != pb.EntryNormal {
		return e.GetData()
	}
	for _, n := range st.l.d.nodes {
		if st.victims[n.host] && n.host.Running() && n.host.Status().ID == b.origin && st.l.chance(0.9) {
			return e.GetData() // its own words it knows
		}
	}
	var out [][]byte
	for _, c := range b.commands {
		kind, _, err := receipt.Split(c)
		switch {
		case err != nil:
			out = append(out, c)
		case kind == receipt.KindSuspension:
		case kind == receipt.KindCheckpoint:
			if v, err := ledger.ParseVote(c); err == nil && v.Node == st.l.n.name {
				if h, ok, err := st.standing().Head(st.machine.m.Size()); ok && err == nil {
					v = ledger.NewVote(st.l.n.key, st.l.n.name, h)
					out = append(out, v.Entry())
				}
			}
		case kind == receipt.KindTransaction && st.l.chance(0.5):
			out = append(out, forgedPut(c))
		default:
			out = append(out, c)
		}
	}
	b.commands = out
	return b.encode()
}

// forgedPut returns a transaction with another value; anything else as it is.
func forgedPut(entry []byte) []byte {
	if k, _, err := receipt.Split(entry); err != nil || k != receipt.KindTransaction {
		return entry
	}
	tx, err := ledger.ParseTransaction(entry)
	if err != nil || len(tx.Writes) == 0 {
		return entry
	}
	tx.Writes[0].Value = append(slices.Clone(tx.Writes[0].Value), "-forged"...)
	out, err := tx.Entry()
	if err != nil {
		return entry
	}
	return out
}

// batch is a log entry of one origin, as package replica writes it.
type batch struct {
	origin, seq uint64
	commands    [][]byte
}

func batchHead(origin, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte{1}, origin), seq)
}

func appendCommand(b, c []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(c))), c...)
}

func (b *batch) encode() []byte {
	out := batchHead(b.origin, b.seq)
	for _, c := range b.commands {
		out = appendCommand(out, c)
	}
	return out
}

func parseBatch(data []byte) (b batch, ok bool) {
	if len(data) < 17 || data[0] != 1 {
		return b, false
	}
	b.origin, b.seq, data = binary.BigEndian.Uint64(data[1:]), binary.BigEndian.Uint64(data[9:]), data[17:]
	for len(data) > 0 {
		n, w := binary.Uvarint(data)
		if w <= 0 || n > uint64(len(data)-w) {
			return b, false
		}
		b.commands = append(b.commands, data[w:w+int(n)])
		data = data[w+int(n):]
	}
	return b, true
}
