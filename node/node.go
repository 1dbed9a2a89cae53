// Package node is a node of a domain: it wires a replica, the ledger and the API
// together from a configuration, and does what a node does by itself - it signs
// ticks and checkpoints, judges proposals, and keeps the replica's members to the
// roster.
//
// It trusts its directory and the genesis digest in its configuration; the
// comments of [ExampleConfig] say so for each field.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// Options add to a configuration what is no text.
type Options struct {
	Log     *slog.Logger
	Version string
	Parts   []part.Part                                        // beside those that every node has
	Sealer  Sealer                                             // for the epoch's secret; nil: the node's TPM, or without one a file of its directory
	lies    lies                                               // of nodes that tests have lie; none elsewhere
	judges  []part.JudgedType                                  // which such nodes judge by, in the place of their own
	leased  func(host string) (keyring.Lease, evidence.Claims) // whom such nodes take for a host that asks for a key
}

// lies are the places at which a test has a node say what is not so.
type lies struct {
	transport func(replica.Transport) replica.Transport                          // messages of raft
	head      func(to string, s heads.Statement, sign *key.Node) heads.Statement // where it stands
	state     func(*ledger.StateDigest)                                          // what its state is
}

// core is which node this is, its log, and the keys by which it signs: what every task of a node
// stands on.
type core struct {
	books
	cfg     Config
	opts    Options
	log     *slog.Logger
	self    *Identity
	name    string // in the roster
	file    *client.Domain
	genesis receipt.Genesis
	own     client.Contact // as the directory has it; the signing key may be another since
	signers signers
	tpm     *collect.TPM // nil where neither the node has one nor the domain asks for evidence
	metrics *metrics

	stop    func()
	running context.Context
	tasks   sync.WaitGroup
}

// directory is who else there is: contacts, rosters, and the terms for nodes, as far as the
// state or other nodes prove them.
type directory struct {
	*core
	mu       sync.Mutex
	contacts map[string]client.Contact // newest known, by name
	pace     pace
	left     error // that members removed this node
	standing standing
}

// guard decides whether this node may sign and grant: whether others stand where it does, came
// to the same state, and the clock goes on.
type guard struct {
	*directory
	outlook   outlook
	confirmed confirmed
	peers     *peers
}

// library is what goes by its digest: objects, evidence that is being judged, verdicts, and
// terms opened.
type library struct {
	*guard
	objects  *objects
	evidence box
	verdicts verdicts
	rulebook rulebook
	replayed replayed
}

// admission judges evidence of hosts, and says how leases begin, go on and end.
type admission struct {
	*library
	court      court
	renewer    *renewer
	gate       *gatekeeper // nil in a domain that asks for no evidence, as prover
	prover     attest.Prover
	turns      *turns // to judge what machines send
	suspending suspending
	muster     muster
	archive    func(context.Context, evidenceCase, admit.Decision) error // before this node endorses it
}

// Node is a running node: the parts that it is made of, and the listeners before them.
type Node struct {
	*admission
	states     states
	pulse      pulse
	membership membership
	rekeying   rekeying
	keys       agreement
	svids      svids
	releasing  releasing
	archivist  archivist
	assembly   *assembly

	effects    effects
	shown      shownRoom
	changed    chan struct{} // the roster has
	crowd      *crowd        // of the API
	lastLeases lastLeases
	limited    limited
	fronts     []*front
	doors      doors
	fs         vfs.FS // of store, objects and archive
}

// start is Start, as far as what it opens answers.
func start(ctx context.Context, cfg Config, opts Options) (_ *Node, err error) {
	n := newNode(cfg, opts)
	n.books.gate = n.sound
	n.standing.up = make(chan struct{})
	if n.self, err = loadTLS(cfg.Dir); err != nil {
		return nil, err
	}
	if err := n.loadDomain(); err != nil {
		return nil, err
	}
	n.closed.node = n.name
	running, stop := context.WithCancelCause(context.Background())
	n.running, n.stop = running, func() { stop(keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "node"})) }
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	n.doors.disk.dir, n.doors.disk.most, n.doors.disk.closed = cfg.Dir, uint64(cfg.Store.ReserveMiB)<<20, &n.closed
	n.fs = vfs.OnDiskFull(vfs.Default, n.doors.disk.spend)
	if err := n.doors.disk.begin(); err != nil {
		return nil, err
	}
	if err := n.openTPM(ctx); err != nil {
		return nil, err
	}
	if err := n.openSigners(ctx); err != nil {
		return nil, err
	}
	if err := n.openOutlook(); err != nil {
		return nil, err
	}
	if n.objects, err = openObjects(n.fs, filepath.Join(cfg.Dir, objectsDir), int64(cfg.Objects.PendingMiB)<<20, time.Duration(cfg.Objects.PendingMinutes)*time.Minute, time.Now()); err != nil {
		return nil, err
	}
	if n.archivist.archives, err = openArchives(n.fs, filepath.Join(cfg.Dir, archiveDir), int64(cfg.Archive.QuotaMiB)<<20); err != nil {
		return nil, err
	}
	n.archivist.archives.pushed = func(host string, verdict keystead.Digest) {
		n.log.Warn("archived evidence destroyed before its time, to make room", "host", host, "verdict", verdict)
	}
	n.renewer = newRenewer(n.admission)
	n.turns = newTurns(cfg.Evidence.Judgements, time.Duration(cfg.Evidence.TurnMS)*time.Millisecond)
	n.archivist.readings = make(chan struct{}, 1)
	n.shown = newShownRoom(&cfg.Evidence)
	if n.assembly, err = assemble(n, append([]part.Part{own{n}}, append(parts(&cfg.Systems, grants{leases{n.admission}, n}), opts.Parts...)...)); err != nil {
		return nil, err
	}
	n.court.bad = n.provenBad
	n.court.init(n.library, n.tookEffect, append(n.assembly.judges(), opts.judges...))
	if n.svids.authority, err = newAuthority(n.genesis.Name, n.name, time.Now()); err != nil {
		return nil, err
	}
	n.machine = &machine{domain: cfg.Domain, heard: n.heard, opened: n.states.opened, sees: n.assembly.sees}
	n.metrics = newMetrics(n)
	if err := n.assembly.register(n.metrics.registry); err != nil {
		return nil, err
	}
	n.limited.init(n)
	sealer := opts.Sealer
	if sealer == nil && n.tpm != nil {
		sealer = TPMSealer{TPM: n.tpm}
	}
	if err := n.keys.init(ctx, n.guard, n.pulse.ticks.arrived, sealer); err != nil {
		return nil, err
	}
	if err := n.openFronts(); err != nil {
		return nil, err
	}
	if err := n.leaveContact(); err != nil { // after the ports: two processes of one directory do not get here
		return nil, err
	}
	n.background(n.doors.diskLoop)
	if err := n.serve(); err != nil { // who asks is told why there is no better answer yet
		return nil, err
	}
	if n.replica, err = n.startReplica(ctx); err != nil {
		return nil, err
	}
	close(n.standing.up)
	if err := n.assembly.start(ctx); err != nil {
		return nil, err
	}
	if err := n.snapshot(n.lastLeases.read); err != nil {
		return nil, err
	}
	for _, task := range []func(){n.pulse.tickLoop, n.pulse.voteLoop, n.headsLoop, n.membership.memberLoop, n.court.loop, n.keys.loop, n.foundLoop, n.rekeying.rekeyLoop, n.renewer.loop,
		n.libraryLoop, n.archivist.archiveLoop, n.doors.closureLoop, n.states.positionLoop} {
		n.background(task)
	}
	return n, nil
}

// newNode lays a node out, with nothing opened.
func newNode(cfg Config, opts Options) *Node {
	c := &core{cfg: cfg, opts: opts, log: cmp.Or(opts.Log, slog.New(slog.DiscardHandler))}
	g := &guard{directory: &directory{core: c, contacts: map[string]client.Contact{}}}
	a := &admission{library: &library{guard: g}}
	n := &Node{admission: a, changed: make(chan struct{}, 1)}
	n.membership.changed = n.changed
	n.peers = newPeers(g)
	n.doors.guard, n.closed.log = g, c.log
	n.states.guard, n.pulse.guard, n.membership.guard, n.rekeying.guard = g, g, g, g
	n.svids.guard, n.svids.leases = g, leases{a}
	n.releasing = releasing{g, &n.keys, leases{a}, opts.leased}
	n.archivist.admission, n.archivist.keys = a, &n.keys
	n.muster.library = a.library
	n.rekeying.settled = func() { n.court.endorseAgain(); n.background(n.announce) }
	a.archive = n.archivist.archiveEvidence
	return n
}

// background runs a task that Close waits for. It is called by Start and by tasks.
func (n *core) background(task func()) {
	n.tasks.Add(1)
	go func() {
		defer n.tasks.Done()
		task()
	}()
}

// now is the time of day by this node's clock.
func (n *core) now() time.Time { return time.Now() }

// loadDomain reads the domain file in the directory and checks it by the digest.
func (n *directory) loadDomain() error {
	path := filepath.Join(n.cfg.Dir, domainFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w (keystead domain join puts it there)", err)
	}
	if n.file, err = client.ParseDomain(raw); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	entry, err := receipt.NoteEntry(n.file.Genesis)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if n.genesis, err = receipt.VerifyGenesis(entry, n.cfg.Domain); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, signed := range n.file.Contacts {
		c, err := client.OpenContact(signed)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		n.contacts[c.Name] = c
	}
	signed, err := os.ReadFile(filepath.Join(n.cfg.Dir, contactFile))
	if err != nil {
		return err
	}
	if n.own, err = client.OpenContact(signed); err != nil {
		return err
	}
	if n.own.TLS != n.self.Pin {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: filepath.Join(n.cfg.Dir, contactFile), Want: "the TLS key in " + n.cfg.Dir, Got: "another"})
	}
	n.name = n.own.Name
	n.contacts[n.name] = n.own
	return nil
}

// heard takes note of applied entries. It runs between two batches and only hands on.
func (n *Node) heard(h heard) {
	n.grown.ring()
	if h.ticked {
		n.mu.Lock()
		n.pace.observe(h.clock, bootMillis())
		n.mu.Unlock()
	}
	n.pulse.voter.hear(h)
	n.effects.hear(h.effects)
	n.court.hear(h.judged)
	if h.agreement {
		n.keys.ring()
	}
	if h.positions {
		n.confirmed.bell.ring()
	}
	if h.roster {
		select {
		case n.changed <- struct{}{}:
		default:
		}
	}
	for _, a := range h.alarms {
		n.log.Error("alarm", "number", a.Number, "reason", a.Finding.Reason, "where", a.Finding.Where, "want", a.Finding.Want, "got", a.Finding.Got)
	}
	n.metrics.heard(h)
	n.assembly.applied(part.Batch{Entries: h.applied, Size: h.size, Clock: h.clock, Replaced: h.replaced})
}

// foundLoop hands in the genesis entry until it is applied, and has this node be found.
func (n *Node) foundLoop() {
	entry, err := receipt.NoteEntry(n.file.Genesis)
	if err != nil {
		return // it was verified when it was loaded
	}
	n.retry("genesis", func(ctx context.Context) error {
		if r, _, _ := n.machine.roster(); len(r.Nodes) > 0 {
			return nil
		}
		_, err := n.propose(ctx, entry)
		if errors.Is(err, keystead.ReasonGenesisMisplaced) {
			return nil // another founder was faster
		}
		return err
	})
	if n.signers.boot == nil { // else rekeyLoop does
		n.announce()
	}
}

// announce publishes this node's contact, so that everyone finds it, and its authority,
// both signed by the key in force.
func (n *Node) announce() {
	n.retry("contact", func(ctx context.Context) error {
		k, err := n.signer()
		if err != nil {
			return err
		}
		return n.publish(ctx, n.contactBy(k))
	})
	n.retry("authority", n.svids.publishAuthority)
	n.retry("recovery", n.publishRecovery)
}

// retry does something until it succeeds or the node stops.
func (n *core) retry(what string, do func(context.Context) error) {
	for n.running.Err() == nil {
		ctx, cancel := context.WithTimeout(n.running, 5*time.Second)
		err := do(ctx)
		cancel()
		if err == nil {
			return
		}
		n.log.Debug("not done yet", "what", what, "because", err)
		select {
		case <-n.running.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// contactContract owns the keys under which nodes publish their contacts.
const contactContract = "contact"

// publish writes a contact to the ledger if it is not there.
func (n *core) publish(ctx context.Context, signed []byte) error {
	c, err := client.OpenContact(signed)
	if err != nil {
		return err
	}
	return n.record(ctx, contactContract, contactContract+"/"+c.Name, signed)
}

// transact writes records of a contract that nodes alone write.
func (n *core) transact(ctx context.Context, contract string, writes []ledger.Write, conditions ...ledger.Condition) error {
	_, _, clock := n.machine.roster()
	tx := ledger.Transaction{Request: ledger.RequestID{ID: [16]byte(client.NewRequestID()), Deadline: clock + ledger.Window/2},
		Contract: contract, Conditions: conditions, Writes: writes}
	entry, err := tx.Entry()
	if err != nil {
		return err
	}
	_, err = n.propose(ctx, entry)
	return err
}

// readContacts learns the contacts on the ledger. Of a node in the roster it takes the
// one that the node's key there signed; one by an older key of the same machine only
// while no other is known. Contacts of nodes that left say which member of the replica
// they were.
func (n *directory) readContacts() (signed [][]byte, err error) {
	found := map[string]client.Contact{}
	err = n.view(func(v ledger.View) error {
		return v.Keys(contactContract+"/", func(key string, value ledger.Value) bool {
			if c, err := client.OpenContact(value.Data); err == nil && key == contactContract+"/"+c.Name {
				found[c.Name] = c
				signed = append(signed, value.Data)
			}
			return true
		})
	})
	roster := n.roster()
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, c := range found {
		_, known := n.contacts[name]
		node, in := roster.Node(name)
		if name != n.name && (!in || c.Node() == node || !known && leads(&c, node)) {
			n.contacts[name] = c
		}
	}
	return signed, err
}

func (n *directory) knownContacts() []client.Contact {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]client.Contact, 0, len(n.contacts))
	for _, c := range n.contacts {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b client.Contact) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// contactOf returns the contact of the node that shows a TLS key: of one in the roster,
// if several say that it is theirs.
func (n *directory) contactOf(pin keystead.Digest) (contact client.Contact, found bool) {
	roster := n.roster()
	for _, c := range n.knownContacts() {
		if c.TLS != pin {
			continue
		}
		if _, in := roster.Node(c.Name); in {
			return c, true
		}
		contact, found = c, true
	}
	return contact, found
}

// nameOf returns the name of the node that shows a TLS key, or "".
func (n *directory) nameOf(pin keystead.Digest) string {
	c, _ := n.contactOf(pin)
	return c.Name
}

// Name returns the node's name.
func (n *core) Name() string { return n.name }

// Done is closed when the node has stopped by itself or by Close.
func (n *Node) Done() <-chan struct{} { return n.replica.Done() }

// Err returns why the node stopped by itself, or nil.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.left != nil {
		return n.left
	}
	return n.replica.Err()
}

// Close hands over leadership, ends what is under way, and leaves the record of a
// clean shutdown.
func (n *Node) Close() error {
	if n.replica != nil {
		n.handOver()
	}
	n.stop()
	errs := []error{n.closeFronts()}
	n.tasks.Wait()
	if n.assembly != nil {
		errs = append(errs, n.assembly.close())
	}
	n.peers.close()
	if n.replica != nil {
		errs = append(errs, n.replica.Close())
	}
	if n.tpm != nil { // the seal needs it until here
		errs = append(errs, n.tpm.Close())
	}
	return errors.Join(errs...)
}

// transferPatience is how long one voter has to take over.
const transferPatience = 500 * time.Millisecond

// handOver asks another voter to lead, and waits until this node does not, asking the
// next one when that takes too long.
func (n *core) handOver() {
	s := n.replica.Status()
	if s.Members == nil {
		return
	}
	for _, id := range s.Members.Voters() {
		leader, over := n.replica.Led()
		if leader != s.ID {
			return
		}
		if id == s.ID {
			continue
		}
		n.replica.Transfer(id)
		select {
		case <-over:
		case <-n.replica.Done():
		case <-time.After(transferPatience):
		}
	}
}

// Status implements serve.Domain.
func (n *Node) Status() *apiv1.StatusResponse {
	out := &apiv1.StatusResponse{Node: n.name, Version: n.opts.Version, Fresh: n.fresh() == nil}
	if err := n.closed.err(); err != nil {
		out.Closed = err.Error()
	}
	out.DiskFreeBytes, _, _, out.DiskFull = n.doors.disk.state()
	if _, err := n.signer(); n.isUp() && err != nil {
		n.mu.Lock()
		out.Unsigned = cmp.Or(n.rekeying.unsigned, err.Error())
		n.mu.Unlock()
	}
	out.ProvenBad = n.outlook.proven()
	if !n.isUp() {
		return out
	}
	s := n.replica.Status()
	out.Term, out.Committed, out.Applied, out.Role = s.Term, s.Commit, s.Applied, strings.ToLower(strings.TrimPrefix(s.State.String(), "State"))
	if s.Members != nil {
		learners := s.Members.Learners()
		for _, m := range s.Members.Members {
			name := n.nameOf(m.Key)
			if m.ID == s.Leader {
				out.Leader = name
			}
			role := "voter"
			if slices.Contains(learners, m.ID) {
				role = "learner"
			}
			if m.ID == s.ID && role == "learner" {
				out.Role = role
			}
			out.Peers = append(out.Peers, &apiv1.Peer{Name: name, Role: role, RaftId: m.ID})
		}
	}
	_ = n.view(func(v ledger.View) error { // what can not be read stays 0
		st, err := v.Status()
		if err != nil {
			return err
		}
		out.TreeSize, out.DomainClockMs = st.Size, st.Clock
		note, err := v.Checkpoint()
		if err == nil && note != nil {
			h, _ := receipt.ParseCheckpoint(note)
			out.CheckpointSize = h.Size
		}
		return err
	})
	return out
}
