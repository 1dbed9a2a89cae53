package contractnode

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keystead/keystead"
	contractv1 "github.com/keystead/keystead/api/contract/v1"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/contract"
)

// Bounds of what waits and what is done at once.
const (
	maxWaiting = 1024 // calls of one contract
	maxBatch   = 256  // calls that are executed and signed together
	maxRounds  = 16   // in which a call is executed anew because others came between
	roundTime  = 10 * time.Second
)

// waiting is a call that is to be executed.
type waiting struct {
	contract.Question
	signature []byte
	answer    chan answered // has room for one
}

type answered struct {
	*contractv1.CallResponse
	err error
}

// benches have the calls that wait, by contract: one is executed after the other.
type benches struct {
	mu sync.Mutex
	by map[string]chan *waiting
}

// call has a call executed, and waits until it is applied.
func (p *Part) call(ctx context.Context, r *contractv1.CallRequest) (*contractv1.CallResponse, error) {
	w := &waiting{question(r, p.host.Self().Domain), r.GetSignature(), make(chan answered, 1)}
	if len(r.GetRequestId()) != len(w.Request) {
		return nil, deny(keystead.ReasonMalformed, "call", "a request id of 16 bytes", fmt.Sprint(len(r.GetRequestId())))
	}
	if _, err := p.codes.inForce(ctx, p.host, w.Contract); err != nil {
		return nil, err
	}
	select {
	case p.bench(w.Contract) <- w:
	default:
		return nil, deny(keystead.ReasonOverloaded, "contract "+w.Contract, fmt.Sprintf("at most %d calls that wait", maxWaiting), "one more")
	}
	select {
	case a := <-w.answer:
		return a.CallResponse, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bench returns where calls of a contract wait, and has somebody execute them.
func (p *Part) bench(name string) chan *waiting {
	b := &p.benches
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by == nil {
		b.by = map[string]chan *waiting{}
	}
	if b.by[name] == nil {
		c := make(chan *waiting, maxWaiting)
		b.by[name] = c
		p.host.Go("contract "+name, func(ctx context.Context) error { p.work(ctx, name, c); return nil })
	}
	return b.by[name]
}

// work executes what waits.
func (p *Part) work(ctx context.Context, name string, queue chan *waiting) {
	for {
		var batch []*waiting
		select {
		case w := <-queue:
			batch = append(batch, w)
		case <-ctx.Done():
			return
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case w := <-queue:
				batch = append(batch, w)
			default:
				more = false
			}
		}
		p.settle(ctx, name, batch)
	}
}

// settle executes a batch until each of its calls has an answer.
func (p *Part) settle(ctx context.Context, name string, batch []*waiting) {
	ctx, cancel := context.WithTimeout(ctx, roundTime)
	defer cancel()
	var err error
	for range maxRounds {
		if batch, err = p.round(ctx, name, batch); len(batch) == 0 {
			return
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = deny(keystead.ReasonOverloaded, "contract "+name, "a state that holds still while it is called", fmt.Sprintf("%d rounds, each overtaken by calls on other nodes", maxRounds))
	}
	for _, w := range batch {
		w.answer <- answered{err: err}
	}
}

// a trial is what a call came to, on the state before it in its batch. It counts once all calls
// before it are applied.
type trial struct {
	*waiting
	caller ledger.Caller
	call   *ledger.Call // nil: refused
	err    error
}

// round executes a batch once, has the ledger take it, and answers what is settled. It returns
// the calls that are to be executed again.
func (p *Part) round(ctx context.Context, name string, batch []*waiting) (again []*waiting, err error) {
	if err := p.host.State().Current(ctx); err != nil {
		return batch, err
	}
	c, err := p.codes.inForce(ctx, p.host, name)
	if err != nil {
		return batch, err
	}
	trials, err := p.try(ctx, c, batch)
	if err != nil || trials == nil {
		return batch, err
	}
	entries, err := p.sign(trials)
	if err != nil {
		return batch, err
	}
	done, refusal := p.host.Log().Propose(ctx, entries...)
	n := 0 // calls that were applied, of those before this trial
	for i, t := range trials {
		switch {
		case t.call == nil:
			p.refused(ctx, c, t)
		case n < len(done):
			p.taken(t, done[n].Leaf, done[n].Repeated)
			n++
		case overtaken(refusal):
			return waitingOf(trials[i:]), nil
		default:
			t.answer <- answered{err: refusal}
			return waitingOf(trials[i+1:]), nil
		}
	}
	return nil, nil
}

// refused answers a call that was not executed to its end: with what it came to if it had taken
// effect before, for a repetition may find a state on which the contract refuses it.
func (p *Part) refused(ctx context.Context, c *code, t trial) {
	if errors.Is(t.err, keystead.ReasonCallerUnknown) || errors.Is(t.err, keystead.ReasonCallerDenied) {
		t.answer <- answered{err: t.err}
		return
	}
	t.call = &ledger.Call{Request: ledger.RequestID{ID: t.Request, Deadline: t.Deadline}, Contract: c.name, Code: c.version, Predecessor: keystead.Sum(nil), // of no call: it takes no effect
		Caller: t.caller, Method: t.Method, Input: t.Input, Executor: p.host.Self().Name}
	entries, err := p.sign([]trial{t})
	if err == nil {
		done, _ := p.host.Log().Propose(ctx, entries...)
		if len(done) == 1 && done[0].Repeated {
			p.taken(t, done[0].Leaf, true)
			return
		}
	}
	t.answer <- answered{err: t.err}
}

// overtaken reports a refusal because the state was another one than the call was executed on.
func overtaken(err error) bool {
	for _, r := range []keystead.Reason{keystead.ReasonPredecessorWrong, keystead.ReasonCodeChanged, keystead.ReasonClockStale} {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}

func waitingOf(trials []trial) (out []*waiting) {
	for _, t := range trials {
		out = append(out, t.waiting)
	}
	return out
}

// try executes a batch on the state of one moment, each call on what those before it left. It
// returns nil if another code has come into force.
func (p *Part) try(ctx context.Context, c *code, batch []*waiting) (trials []trial, err error) {
	members := p.members()
	err = p.host.State().Snapshot(func(v ledger.View) error {
		record, err := v.Code(c.name)
		if err != nil || record.Version != c.version {
			return err
		}
		clock, err := v.Clock()
		if err != nil {
			return err
		}
		last, _, err := v.LastCall(c.name)
		if err != nil {
			return err
		}
		over := &overlay{State: stored{v, c.name}, by: map[string]contract.Write{}}
		for _, w := range batch {
			t := trial{waiting: w}
			who, err := c.admit(v, &w.Question, w.signature, members)
			t.caller, t.err = ledger.Caller{Kind: who.Kind, Name: who.Name, Roles: strings.Join(who.Roles, " "), Signature: w.signature}, err
			if err == nil {
				t.call, t.err = p.execute(ctx, c, &t, who, clock, over)
			}
			if t.err == nil {
				t.call.Predecessor = last
				last = t.call.ID()
			}
			trials = append(trials, t)
		}
		return nil
	})
	return trials, err
}

// execute executes one call.
func (p *Part) execute(ctx context.Context, c *code, t *trial, who contract.Caller, clock uint64, over *overlay) (*ledger.Call, error) {
	q := &contract.Call{Method: t.Method, Input: t.Input, Caller: who, Clock: clock}
	_, _ = rand.Read(q.Seed[:]) // never fails
	r, err := c.Call(ctx, q, over)
	if err != nil {
		return nil, err
	}
	over.take(r.Writes)
	out := &ledger.Call{Request: ledger.RequestID{ID: t.Request, Deadline: t.Deadline}, Contract: c.name, Code: c.version, Caller: t.caller,
		Method: t.Method, Input: t.Input, Clock: clock, Seed: q.Seed, Gas: uint64(r.Gas), Output: r.Output, Executor: p.host.Self().Name}
	for _, e := range r.Events {
		out.Events = append(out.Events, ledger.Event(e))
	}
	for _, x := range r.Writes {
		out.Writes = append(out.Writes, ledger.Write{Key: c.name + "/" + string(x.Key), Value: x.Value, Delete: x.Delete})
	}
	return out, nil
}

// sign signs the calls that were not refused, and returns their entries.
func (p *Part) sign(trials []trial) (entries [][]byte, err error) {
	var calls []*ledger.Call
	for _, t := range trials {
		if t.call != nil {
			calls = append(calls, t.call)
		}
	}
	err = ledger.SignCalls(p.host.Self().Domain, calls, func(message []byte) (key.NodeSignature, error) { return p.host.Log().Sign(ledger.CallContext, message) })
	for _, c := range calls {
		if err != nil {
			return nil, err
		}
		var e []byte
		e, err = c.Entry()
		entries = append(entries, e)
	}
	return entries, err
}

// taken answers a call that the ledger has.
func (p *Part) taken(t trial, leaf uint64, repeated bool) {
	out := &contractv1.CallResponse{Output: t.call.Output, Leaf: leaf, Gas: t.call.Gas, Executor: t.call.Executor, Repeated: repeated}
	if !repeated {
		p.calls.WithLabelValues(t.call.Contract).Inc()
		t.answer <- answered{out, nil}
		return
	}
	err := p.host.State().Snapshot(func(v ledger.View) error { // what it came to the first time
		entry, err := v.Entry(leaf)
		if err != nil {
			return err
		}
		first, err := ledger.ParseCall(entry)
		if err == nil && (first.Contract != t.call.Contract || first.Method != t.call.Method || !slices.Equal(first.Input, t.call.Input) || first.Caller.Kind != t.call.Caller.Kind || first.Caller.Name != t.call.Caller.Name) {
			err = deny(keystead.ReasonRequestExpired, "request", "an id of its own for each call", "that of another call")
		}
		out.Output, out.Gas, out.Executor = first.Output, first.Gas, first.Executor
		return err
	})
	if err != nil {
		t.answer <- answered{err: err}
		return
	}
	t.answer <- answered{out, nil}
}

// overlay is a state with what calls of the batch wrote.
type overlay struct {
	contract.State
	by map[string]contract.Write
}

func (o *overlay) take(writes []contract.Write) {
	for _, w := range writes {
		o.by[string(w.Key)] = w
	}
}

// Get implements contract.State.
func (o *overlay) Get(key []byte) ([]byte, bool, error) {
	if w, ok := o.by[string(key)]; ok {
		return w.Value, !w.Delete, nil
	}
	return o.State.Get(key)
}

// Scan implements contract.State.
func (o *overlay) Scan(from, to []byte, each func(key, value []byte) bool) error {
	var own []string
	for k := range o.by {
		if k >= string(from) && (len(to) == 0 || k < string(to)) {
			own = append(own, k)
		}
	}
	slices.Sort(own)
	more := true
	tell := func() { // the next of the batch's own
		if w := o.by[own[0]]; !w.Delete {
			more = each(w.Key, w.Value)
		}
		own = own[1:]
	}
	err := o.State.Scan(from, to, func(key, value []byte) bool {
		for more && len(own) > 0 && own[0] < string(key) {
			tell()
		}
		if more && len(own) > 0 && own[0] == string(key) {
			tell()
			return more
		}
		more = more && each(key, value)
		return more
	})
	for err == nil && more && len(own) > 0 {
		tell()
	}
	return err
}
