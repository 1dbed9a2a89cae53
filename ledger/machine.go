package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// Machine is the state machine of one domain on one node. It applies what the
// replicas agreed on, in order; the same entries give the same state on every
// node, however they are cut into batches. It is not safe for concurrent use:
// readers use a [View] of the store instead.
type Machine struct {
	store     Reader
	head      head
	genesis   receipt.Genesis
	rosters   []rosterAt // by sequence
	tree      tree
	requests  requests
	marks     []mark            // of ticks, oldest first
	lastTick  map[string]uint64 // node: time of its last tick
	proposals map[keystead.Digest]*proposal
	votes     map[string][]Vote // node: its last signatures, oldest first
	latest    checkpoint
	leases    leases
	positions Positions

	entryVersion uint8             // the setting of that name
	calls        map[string]called // contract: its last call
	signedRoot   signedRoot

	written  []written         // by the batch that is being applied, which the store does not have yet
	versions map[string]uint64 // index of written[:indexed], made when first needed
	indexed  int
	keyBuf   []byte
	buf      []byte
	alarms   []Alarm
	signed   []byte // the checkpoint that the batch completed
	voted    *receipt.TreeHead
	stopped  error
}

// rosterAt is a roster and the entry that made it.
type rosterAt struct {
	receipt.Roster
	leaf  uint64
	entry keystead.Digest
}

// Committed is an entry that the replicas agreed on, at its place in their log:
// log entries carry one or several, numbered by Offset. Data is empty for entries
// of the replicas' own, such as a new leader's first.
type Committed struct {
	Index, Term uint64
	Offset      int
	Data        []byte
}

// Applied is what a batch brought about, beside its writes.
type Applied struct {
	Results    []Result // one for each entry
	Alarms     []Alarm
	Voted      *receipt.TreeHead // the newest head that a node signed and that is this tree's, too: to be signed by this node as well; or nil
	Checkpoint []byte            // the signed checkpoint that a majority completed or another node added to; or nil
}

// StopError says that the node must not go on: a batch could not be applied and
// nothing of it was. What was acknowledged is in the replicas' log.
type StopError struct {
	Index uint64 // log index of the entry, 0 when it was none
	Err   error
}

func (e *StopError) Error() string {
	if e.Index == 0 {
		return fmt.Sprintf("ledger: stopped: %v", e.Err)
	}
	return fmt.Sprintf("ledger: stopped at log entry %d: %v", e.Index, e.Err)
}

func (e *StopError) Unwrap() error { return e.Err }

// fatal marks an error as one to stop for, and not a refusal of one entry.
func fatal(err error) error {
	if err == nil {
		return nil
	}
	return &StopError{Err: err}
}

// Open reads back the state of a domain from the store; an empty store waits for
// the genesis entry of that domain.
func Open(r Reader, domain keystead.Digest) (*Machine, error) {
	m := &Machine{store: r, lastTick: map[string]uint64{}, proposals: map[keystead.Digest]*proposal{}, calls: map[string]called{}, votes: map[string][]Vote{}, leases: leases{by: map[string]*lease{}, ended: map[string]uint64{}}, requests: requests{buckets: map[uint64]map[[16]byte]uint64{}}}
	m.head.domain = domain
	b, found, err := r.Get([]byte{spaceHead})
	if err != nil || !found {
		return m, err
	}
	if m.head, err = decodeHead(b); err != nil {
		return nil, &StopError{Err: err}
	}
	if m.head.domain != domain {
		return nil, deny(keystead.ReasonDomainMismatch, "store", receipt.Origin(domain), receipt.Origin(m.head.domain))
	}
	if err := m.load(); err != nil {
		return nil, &StopError{Err: err}
	}
	return m, nil
}

// Domain returns the digest of the domain's genesis entry.
func (m *Machine) Domain() keystead.Digest { return m.head.domain }

// Applied returns the log index of the last entry applied.
func (m *Machine) Applied() uint64 { return m.head.applied }

// Size returns the number of leaves in the tree.
func (m *Machine) Size() uint64 { return m.head.size }

// Clock returns the domain clock in Unix milliseconds.
func (m *Machine) Clock() uint64 { return m.head.clock }

// LastTick returns the time of a node's last tick, 0 for none. A tick entry that
// holds none later than that is refused.
func (m *Machine) LastTick(node string) uint64 { return m.lastTick[node] }

// Roster returns the roster in force and its sequence. It has no nodes before
// the genesis entry is applied.
func (m *Machine) Roster() (receipt.Roster, uint64) {
	if len(m.rosters) == 0 {
		return receipt.Roster{}, 0
	}
	return m.rosters[len(m.rosters)-1].Roster, uint64(len(m.rosters) - 1)
}

// Head returns what nodes sign at a size of the tree, from 1 to Size.
func (m *Machine) Head(size uint64) (receipt.TreeHead, error) {
	if size == 0 || size > m.head.size {
		return receipt.TreeHead{}, fmt.Errorf("the tree has 1 to %d leaves, not %d", m.head.size, size)
	}
	seq := m.rosterAt(size)
	stored := newNodeSource(m.store, m.head.size)
	r, err := root(size, func(id nodeID) (hash, error) { return m.tree.node(id, stored) })
	return receipt.TreeHead{Domain: m.head.domain, Size: size, Root: r, Roster: seq, Entry: m.rosters[seq].entry}, err
}

// rosterAt returns the sequence of the roster in force at a size.
func (m *Machine) rosterAt(size uint64) uint64 {
	i := len(m.rosters) - 1
	for i > 0 && m.rosters[i].leaf >= size {
		i--
	}
	return uint64(i)
}

// Apply applies entries in log order and puts their effects into w. Entries that
// were applied before are skipped, so that a log can be replayed from anywhere before. The
// caller makes w's content durable, or visible in the store, before it calls Apply
// again. A refused entry has no effect; its Result says why. An error from
// Apply is a *StopError: the caller discards w, and the machine applies nothing any more.
func (m *Machine) Apply(entries []Committed, w Writer) (Applied, error) {
	if m.stopped != nil {
		return Applied{}, m.stopped
	}
	results, err := m.apply(entries, w)
	if err != nil {
		m.stopped = err
		return Applied{}, err
	}
	return Applied{results, m.alarms, m.voted, m.signed}, nil
}

func (m *Machine) apply(entries []Committed, w Writer) ([]Result, error) {
	for _, e := range entries {
		if err := m.beyond(e); err != nil {
			return nil, err // before anything is written
		}
	}
	m.begin()
	results := make([]Result, len(entries))
	for i, e := range entries {
		results[i].Index = e.Index
		if !m.ahead(e) {
			continue
		}
		if err := m.beyond(e); err != nil { // voted a moment ago
			return nil, err
		}
		m.head.applied, m.head.offset, m.head.term = e.Index, uint64(e.Offset), e.Term
		if len(e.Data) == 0 {
			continue
		}
		err := m.one(e, w, &results[i])
		var stop *StopError
		if errors.As(err, &stop) {
			return nil, &StopError{e.Index, stop.Err}
		}
		results[i].Err = err
		if m.positions.begun() {
			m.head.logged += uint64(len(e.Data))
		}
	}
	version := uint16(2)
	switch {
	case len(m.calls) > 0:
		version = 4
	case m.positions.begun():
		version = 3
	}
	if err := w.Set([]byte{spaceHead}, m.head.encode(version)); err != nil {
		return nil, fatal(err)
	}
	return results, nil
}

// beyond stops at an entry of a version that members voted and this build does not know:
// other nodes apply it. One that they did not vote is refused, or one bad entry would stop
// every node.
func (m *Machine) beyond(e Committed) error {
	if !m.ahead(e) || len(e.Data) == 0 || e.Data[0] <= receipt.Version || e.Data[0] > m.entryVersion {
		return nil
	}
	_, _, err := receipt.Split([]byte{e.Data[0], 0})
	return &StopError{e.Index, err}
}

// ahead reports whether an entry is not applied yet.
func (m *Machine) ahead(e Committed) bool {
	return e.Index > m.head.applied || e.Index == m.head.applied && uint64(e.Offset) > m.head.offset
}

func (m *Machine) begin() {
	m.written, m.indexed, m.versions = m.written[:0], 0, nil
	m.alarms, m.voted, m.signed = nil, nil, nil
	m.tree.filled = nil
}

// one applies one entry. It checks everything before it writes anything.
func (m *Machine) one(e Committed, w Writer, res *Result) error {
	kind, _, err := receipt.Split(e.Data)
	if err != nil {
		return err
	}
	res.Kind = kind
	if (kind == receipt.KindGenesis) != (len(m.rosters) == 0) {
		return deny(keystead.ReasonGenesisMisplaced, "entry", "one genesis entry, before all others", "a "+kind.String()+" entry")
	}
	switch kind {
	case receipt.KindGenesis:
		return m.applyGenesis(e.Data, w, res)
	case receipt.KindRoster:
		return m.applyRoster(e.Data, w, res)
	case receipt.KindTransaction:
		return m.applyTransaction(e.Data, w, res)
	case receipt.KindProposal:
		return m.applyProposal(e.Data, w)
	case receipt.KindEndorsement:
		return m.applyEndorsement(e.Data, w)
	case receipt.KindEffective:
		return m.applyEffective(e.Data, w, res)
	case receipt.KindTick:
		return m.applyTick(e, w)
	case receipt.KindRenewals, receipt.KindEarlyRenewals:
		return m.applyRenewals(e.Data, w, res)
	case receipt.KindSuspension:
		return m.applySuspension(e.Data, w, res)
	case receipt.KindCall:
		return m.applyCall(e.Data, w, res)
	case receipt.KindPosition:
		return m.applyPosition(e, w)
	default:
		return m.applyVote(e.Data, w)
	}
}

// record makes an entry a leaf of the tree.
func (m *Machine) record(entry []byte, w Writer, res *Result) error {
	m.buf = append(append(m.buf[:0], 0), entry...)
	res.ID = keystead.Sum(m.buf) // receipt.LeafHash, without its allocation
	res.Leaf, res.Recorded = m.head.size, true
	if err := m.tree.append(&res.ID, w); err != nil {
		return fatal(err)
	}
	m.head.size++
	m.keyBuf = binary.BigEndian.AppendUint64(append(m.keyBuf[:0], spaceEntry), res.Leaf)
	return fatal(w.Set(m.keyBuf, entry))
}

func (m *Machine) applyGenesis(entry []byte, w Writer, res *Result) error {
	g, err := receipt.VerifyGenesis(entry, m.head.domain)
	if err != nil {
		return err
	}
	m.genesis, m.head.clock = g, g.Created
	m.leases.set("", &m.genesis)
	m.entryVersion = admit.ParseEntryVersion("", g.Setting(admit.EntryVersion))
	return m.enter(entry, g.Roster, w, res)
}

func (m *Machine) applyRoster(entry []byte, w Writer, res *Result) error {
	now := &m.rosters[len(m.rosters)-1]
	c, err := m.genesis.VerifyChange(entry, m.head.domain, uint64(len(m.rosters)), now.entry, &now.Roster)
	if err != nil {
		return err
	}
	return m.enter(entry, c.Roster, w, res)
}

// enter puts a roster into force.
func (m *Machine) enter(entry []byte, r receipt.Roster, w Writer, res *Result) error {
	if err := m.record(entry, w, res); err != nil {
		return err
	}
	sequence := uint64(len(m.rosters))
	m.rosters = append(m.rosters, rosterAt{r, res.Leaf, keystead.Sum(entry)})
	return fatal(w.Set(numberKey(spaceRoster, sequence), binary.BigEndian.AppendUint64(nil, res.Leaf)))
}

// signer returns the key of a node that is in the roster now.
func (m *Machine) signer(r *receipt.Roster, name, where string) (key.NodePublic, error) {
	n, ok := r.Node(name)
	if !ok {
		return key.NodePublic{}, deny(keystead.ReasonSignerUnknown, where, "a node of the roster", name)
	}
	return n.Key, nil
}

func (m *Machine) current() *receipt.Roster { return &m.rosters[len(m.rosters)-1].Roster }
