// Package part is the seam between a node and the systems on it. A part is a system's
// presence on a node: it declares what it answers, judges, writes, proposes and signs, and is
// handed a [Host], which is all that it knows of the node. What is not declared is denied.
//
// A part trusts its Host. The node trusts a part as far as its declaration goes; what other
// nodes, hosts and strangers send reaches a part only through procedures whose limits it
// declared, and through entries that the ledger accepted.
//
// The least part of all declares one procedure:
//
//	func (p *pinger) Declare(d *part.Declaration) {
//		d.Procedures = append(d.Procedures, part.Unary(path, part.Limits{In: 4 << 10, Values: 8, Out: 4 << 10}, p.ping))
//	}
package part

import (
	"context"
	"crypto"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// A Part is a system's presence on a node. Its methods are called in this order: Name,
// Declare, Start, then Applied for each batch, then Close; Applied is never called beside
// itself, and may be called before Start returns.
type Part interface {
	// Name is a word that no other part of the node has.
	Name() string
	// Declare says what the part does. It is called once, before anything is opened.
	Declare(*Declaration)
	// Start begins, with the node's state open and its API not answering yet. The tasks it
	// starts by Host.Go end before Close is called.
	Start(ctx context.Context, h Host) error
	// Applied is told of what the node has applied. It runs between two batches: it must not
	// block, nor keep the batch.
	Applied(Batch)
	// Close lets go of what Start opened.
	Close() error
}

// A Declaration is what a part does on a node.
type Declaration struct {
	Procedures []Procedure
	Judges     []JudgedType
	Objects    map[string]admit.Reader // kinds of objects that the part reads, and how
	Contracts  []string                // that the part writes by Log.Transact
	Proposes   []receipt.Kind          // of entries that it proposes by Log.Propose
	Sees       []receipt.Kind          // of entries that its batches hold
	Signs      []string                // contexts of what it has signed by Log.Sign
	Metrics    []prometheus.Collector
}

// A Batch is what was applied at once.
type Batch struct {
	Entries  []Applied // of the kinds that the part sees
	Size     uint64    // leaves of the tree since
	Clock    uint64    // of the domain, Unix milliseconds
	Replaced bool      // the state is another one, taken in from another node: Entries do not lead to it
}

// Applied is an entry that changed the state. Its bytes belong to the node.
type Applied struct {
	Kind  receipt.Kind
	Leaf  uint64 // 0 as well for kinds that are no leaves
	Entry []byte
}

// An Outcome is what became of a transaction or proposal.
type Outcome struct {
	Applied  bool // false if a comparison did not hold
	Repeated bool // the same request took effect before: its leaf, and no ID
	Leaf     uint64
	ID       keystead.Digest
}

// A Host is the node as a part knows it.
type Host interface {
	Self() Self
	State() State
	Log() Log
	Peers() Peers
	// Go runs a task beside the others. Its context ends with the node, which waits for the
	// task then; an error that it returns before is logged.
	Go(name string, task func(context.Context) error)
}

// Self is which node this is.
type Self struct {
	Name   string
	Domain keystead.Digest
	Dir    string // of the node; what a part keeps there stays when parts change
	Log    *slog.Logger
}

// State is what the node has applied.
type State interface {
	// Snapshot calls read with the state of one moment. It must not wait for others in there.
	Snapshot(read func(ledger.View) error) error
	// Until waits until the state is as cond wants, or ctx ends.
	Until(ctx context.Context, cond func(ledger.View) (bool, error)) error
	// Current refuses while this node may not grant anything: unless a majority says that the
	// state is the newest (ReadIndex), the clock is fresh, and the ledger is not forked.
	Current(ctx context.Context) error
	// Roster returns the roster in force and its sequence.
	Roster() (receipt.Roster, uint64)
	// Grown returns a channel that is closed once more is applied than when it was called.
	Grown() <-chan struct{}
}

// Log is what the node hands in to the ledger for a part.
type Log interface {
	// Propose hands in entries of kinds that the part declared, in their order, and waits until
	// they are applied. It returns what became of those before the first that was refused, and why
	// that was; of those behind it nothing is said.
	Propose(ctx context.Context, entries ...[]byte) ([]Outcome, error)
	// Transact writes records of a contract that the part declared, and that nodes alone write.
	Transact(ctx context.Context, contract string, writes []ledger.Write, conditions ...ledger.Condition) error
	// Decide has the nodes judge a proposal of a type that the part declared, and waits until
	// it takes effect or is refused.
	Decide(ctx context.Context, p *ledger.Proposal) (Outcome, error)
	// Sign signs CONTEXT, a newline and the message by the node's key, in a context that the
	// part declared. It refuses while the node may sign nothing.
	Sign(context string, message []byte) (key.NodeSignature, error)
	// Leads reports whether this node leads, as far as it knows.
	Leads() bool
}

// Peers are the other nodes.
type Peers interface {
	// Others returns the names of the other nodes of the roster.
	Others() []string
	// Object returns an object by its digest, from another node if it is not here. Of kind ""
	// it may be as long as any.
	Object(ctx context.Context, d keystead.Digest, kind string) ([]byte, error)
}

// Granted is what a grant rests on: a lease that is in force, and what its newest evidence
// said.
type Granted struct {
	Lease  admit.Lease
	Claims evidence.Claims // of the verdict on the host's newest evidence; by Leases.Evidence alone
	Clock  uint64          // of the domain, Unix milliseconds
}

// Leases are the one way to a grant.
type Leases interface {
	// Lease calls grant with the lease that a host has now, and with the state it is of, for a
	// caller whose connection showed the host's hardware. It refuses while the node may not
	// grant (State.Current).
	Lease(ctx context.Context, from Caller, host string, grant func(ledger.View, *Granted) error) error
	// Evidence is Lease with the claims of the verdict on the host's newest evidence, which
	// another node may have to hand over.
	Evidence(ctx context.Context, from Caller, host string, grant func(ledger.View, *Granted) error) error
}

// An SVID is an X.509-SVID with what relies on it (SPIFFE X509-SVID, 2 and 4). All are DER.
type SVID struct {
	ID     string   // spiffe://DOMAIN/PATH
	Chain  [][]byte // the leaf first
	Bundle [][]byte // authorities of the domain
}

// Grants are what a node gives applications of hosts that have a lease. What it takes is from
// within a grant of Leases: the state, and the clock.
type Grants interface {
	Leases
	// Release decides whether an application gets an agreed key.
	Release(v ledger.View, ask *keyring.Ask, clock uint64) (keyring.Grant, error)
	// Issue signs an SVID for a path and a public key, which ends with the lease.
	Issue(v ledger.View, lease admit.Lease, path string, public crypto.PublicKey) (SVID, error)
	// Knows returns what tells whether a set by which hosts are judged now has a file.
	Knows(ctx context.Context) (func(file keystead.Digest, clock uint64) bool, error)
}
