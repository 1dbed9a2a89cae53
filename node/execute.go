package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// books implements serve.Ledger on a replica.
type books struct {
	replica *replica.Node
	machine *machine
	grown   bell         // rings when something was applied
	closed  closure      // why this node does not serve, by name
	gate    func() error // refuses while no majority stands where this node does, or its state is unproven
	waker   waker

	proverMu sync.Mutex
	prover   *ledger.Prover
}

// maxRuns is how often a transaction is run again because another one changed what
// it had compared.
const maxRuns = 16

// propose puts an entry into the log and returns what became of it.
func (b *books) propose(ctx context.Context, entry []byte) (ledger.Result, error) {
	raw, err := b.replica.Propose(ctx, entry)
	if err != nil {
		return ledger.Result{}, gone(err)
	}
	return parseResult(raw)
}

// gone turns the word of a replica that members removed into what it means for who
// asked this node: another one may answer.
func gone(err error) error {
	if errors.Is(err, keystead.ReasonNotMember) {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "node", Want: "a node of the domain", Got: "one that has left it"})
	}
	return err
}

// parseResult returns what Apply made of an entry, or its refusal.
func parseResult(raw []byte) (ledger.Result, error) {
	r, err := ledger.ParseResult(raw)
	if err == nil {
		err = r.Err
	}
	return r, err
}

// Execute implements serve.Ledger. What compares nothing needs no goroutine. A node whose gate
// is closed acknowledges nothing: what it would be asked for may be in a log that others do not have.
func (b *books) Execute(ctx context.Context, request ledger.RequestID, ops []ledger.Op, done func(part.Outcome, error)) {
	if err := cmp.Or(b.closed.err(), b.gate()); err != nil {
		done(part.Outcome{}, err)
		return
	}
	if slices.ContainsFunc(ops, func(o ledger.Op) bool { return o.Compare != nil }) {
		go func() { done(b.compare(ctx, request, ops)) }()
		return
	}
	tx, err := ledger.Execute(ledger.View{}, request, ops)
	var entry []byte
	if err == nil {
		entry, err = tx.Entry()
	}
	if err != nil {
		done(part.Outcome{}, err)
		return
	}
	b.replica.Submit(&replica.Proposal{Command: entry, Done: func(p *replica.Proposal) {
		r, err := ledger.Result{}, gone(p.Err)
		if err == nil {
			r, err = parseResult(p.Result)
		}
		switch {
		case err != nil:
			done(part.Outcome{}, err)
		case r.Repeated:
			go func() { done(b.outcome(r)) }() // it reads the store
		default:
			done(part.Outcome{Applied: true, Leaf: r.Leaf, ID: r.ID}, nil)
		}
	}})
}

// compare runs a transaction once, here, and has its write set replicated. If a
// comparison does not hold, a probe first finds out whether that is because the
// same request took effect before, and whether this node had lagged behind.
func (b *books) compare(ctx context.Context, request ledger.RequestID, ops []ledger.Op) (part.Outcome, error) {
	probed := false
	for range maxRuns {
		var tx *ledger.Transaction
		err := b.view(func(v ledger.View) (err error) {
			tx, err = ledger.Execute(v, request, ops)
			return err
		})
		failed := errors.Is(err, keystead.ReasonConditionFailed)
		switch {
		case failed && probed:
			return part.Outcome{}, nil
		case failed:
			tx, probed = probe(request, ops), true
		case err != nil:
			return part.Outcome{}, err
		}
		entry, err := tx.Entry()
		if err != nil {
			return part.Outcome{}, err
		}
		r, err := b.propose(ctx, entry)
		if errors.Is(err, keystead.ReasonConditionFailed) {
			continue
		}
		if err != nil {
			return part.Outcome{}, err
		}
		return b.outcome(r)
	}
	return part.Outcome{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "transaction",
		Want: "keys that hold still while they are compared", Got: fmt.Sprintf("%d runs, each overtaken by another transaction", maxRuns)})
}

// probe returns a transaction that can not take effect: it is answered as repeated
// if the request did, and with condition-failed if not.
func probe(request ledger.RequestID, ops []ledger.Op) *ledger.Transaction {
	key := ledger.KV + "/" + ops[0].Key
	return &ledger.Transaction{Request: request, Contract: ledger.KV, Conditions: []ledger.Condition{{Key: key, Version: ^uint64(0)}}}
}

func (b *books) outcome(r ledger.Result) (part.Outcome, error) {
	o := part.Outcome{Applied: true, Leaf: r.Leaf, ID: r.ID}
	if !r.Repeated {
		return o, nil
	}
	err := b.view(func(v ledger.View) error {
		entry, err := v.Entry(r.Leaf)
		o.ID = receipt.LeafHash(entry)
		return err
	})
	return o, err
}

func (b *books) view(read func(ledger.View) error) error {
	return b.replica.View(func(v replica.View) error { return read(ledger.NewView(v)) })
}

// View implements serve.Ledger.
func (b *books) View(ctx context.Context, linearizable bool, read func(ledger.View) error) error {
	if linearizable {
		if err := b.closed.err(lost...); err != nil {
			return err
		}
		if err := b.replica.Read(ctx); err != nil {
			return gone(err)
		}
		if err := b.gate(); err != nil {
			return err
		}
	}
	return b.replica.Snapshot(func(v replica.View) error { return read(ledger.NewView(v)) })
}

// Grown implements serve.Ledger.
func (b *books) Grown(ctx context.Context, size uint64) error {
	return b.reach(ctx, func(h heights) bool { return h.size > size })
}

// until waits until the state is as wanted. What many may wait for is reach's.
func (b *books) until(ctx context.Context, wanted func(ledger.View) (bool, error)) error {
	for {
		rung := b.grown.wait()
		ok := false
		err := b.view(func(v ledger.View) (err error) {
			ok, err = wanted(v)
			return err
		})
		if ok || err != nil {
			return err
		}
		select {
		case <-rung:
		case <-time.After(100 * time.Millisecond): // in case the bell rang before the state showed
		case <-b.replica.Done():
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonShutdown, Where: "node"})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reader reads the state beside the loop, one access at a time.
type reader struct{ node *replica.Node }

func (r reader) Get(key []byte) (value []byte, found bool, err error) {
	err = r.node.View(func(v replica.View) (err error) {
		value, found, err = v.Get(key)
		return err
	})
	return value, found, err
}

func (r reader) Scan(from, to []byte, visit func(key, value []byte) bool) error {
	return r.node.View(func(v replica.View) error { return v.Scan(from, to, visit) })
}

// Receipts implements serve.Ledger.
func (b *books) Receipts(ctx context.Context, leaves []uint64, chainOnce bool) (receipts, chain [][]byte, err error) {
	last := slices.Max(leaves)
	prove := func(p *ledger.Prover) (bool, error) {
		if p.Head().Size <= last {
			return false, nil
		}
		receipts, chain, err = proveLeaves(ctx, p, leaves, chainOnce)
		return true, err
	}
	if err := b.prove(prove); err != nil || receipts != nil {
		return receipts, chain, err
	}
	if err := b.reach(ctx, func(h heights) bool { return h.covered > last }); err != nil {
		return nil, nil, b.explain(err, last)
	}
	err = b.prove(prove)
	return receipts, chain, err
}

// proveLeaves makes the receipts of leaves, as long as there is memory for the answer.
func proveLeaves(ctx context.Context, p *ledger.Prover, leaves []uint64, chainOnce bool) (receipts, chain [][]byte, err error) {
	for _, leaf := range leaves {
		r, err := p.Receipt(leaf)
		if err != nil {
			return nil, nil, err
		}
		size := 0
		if chainOnce && chain == nil {
			for _, e := range r.Chain {
				size += len(e)
			}
			chain = r.Chain
		}
		if chainOnce {
			r.Chain = nil
		}
		if err := part.Spend(ctx, size+r.Size()); err != nil {
			return nil, nil, err
		}
		receipts = append(receipts, r.Bytes())
	}
	return receipts, chain, nil
}

// explain tells a leaf that is not there from one that no checkpoint covers yet.
func (b *books) explain(err error, leaf uint64) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	f := keystead.Finding{Reason: keystead.ReasonTimeout, Where: "receipt", Want: fmt.Sprintf("a checkpoint that covers leaf %d", leaf)}
	verr := b.view(func(v ledger.View) error {
		s, err := v.Status()
		f.Got = fmt.Sprintf("a tree of %d leaves, and none such yet", s.Size)
		return err
	})
	return errors.Join(keystead.Deny(f), verr)
}

// prove calls use with the prover at hand, and if that is too old, which use reports
// by false, once more with a fresh one.
func (b *books) prove(use func(*ledger.Prover) (bool, error)) error {
	b.proverMu.Lock()
	defer b.proverMu.Unlock()
	if b.prover != nil {
		if ok, err := use(b.prover); ok || err != nil {
			return err
		}
	}
	p, err := ledger.NewProver(reader{b.replica})
	if errors.Is(err, ledger.ErrNoCheckpoint) {
		return nil
	}
	if err != nil {
		return err
	}
	b.prover = p
	_, err = use(p)
	return err
}

// Consistency implements serve.Ledger.
func (b *books) Consistency(ctx context.Context, from []byte) ([]byte, error) {
	b.proverMu.Lock()
	defer b.proverMu.Unlock()
	p, err := ledger.NewProver(reader{b.replica})
	if errors.Is(err, ledger.ErrNoCheckpoint) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNoQuorum, Where: "checkpoint", Want: "a checkpoint that a majority signed", Got: "none yet"})
	}
	if err != nil {
		return nil, err
	}
	b.prover = p
	c, err := p.Consistency(from)
	if err != nil {
		return nil, err
	}
	size := len(c.Old) + len(c.New)
	for _, e := range c.Chain {
		size += len(e) * 4 / 3
	}
	if err := part.Spend(ctx, size); err != nil {
		return nil, err
	}
	return c.Bytes(), nil
}

// A bell wakes all who wait, a moment after it is rung: what is applied shows in the
// state a little later.
type bell struct {
	mu  sync.Mutex
	c   chan struct{}
	set bool // to ring soon
}

const bellDelay = 2 * time.Millisecond

// wait returns a channel that is closed when the bell next rings.
func (b *bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c == nil {
		b.c = make(chan struct{})
	}
	return b.c
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.c != nil && !b.set {
		b.set = true
		time.AfterFunc(bellDelay, b.sound)
	}
}

func (b *bell) sound() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.c)
	b.c, b.set = nil, false
}
