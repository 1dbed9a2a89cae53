package node

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"runtime"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
)

// Bounds of batches of renewals.
const (
	batchEvery   = 200 * time.Millisecond // a batch costs its nodes as much as several judgements
	batchBytes   = 8 << 20                // of evidence in one
	witnessTime  = 5 * time.Second        // for another node to judge a batch
	maxBatchWork = 8                      // batches under way at a time
)

// renewer gathers the renewals that this node judged, has another node judge them, and
// puts them on the ledger.
type renewer struct {
	node  *admission
	wake  chan struct{}
	under chan struct{} // a place for each batch under way

	mu      sync.Mutex
	waiting []*renewal
}

// renewal is one on its way.
type renewal struct {
	asked *apiv1.Renewal // what the other node is asked
	item  ledger.RenewalItem
	leaf  uint64
	held  []keystead.Finding // what other nodes hold against it
	lease *apiv1.Lease       // as it became
	done  chan error
}

// refused takes note of what another node holds against a renewal.
func (x *renewal) refused(node string, r *apiv1.Refusal) {
	if d := refusal.Parse(r); d != nil {
		o := opinion{node, d}
		x.held = append(x.held, o.findings()...)
	}
}

func newRenewer(n *admission) *renewer {
	return &renewer{node: n, wake: make(chan struct{}, 1), under: make(chan struct{}, maxBatchWork)}
}

// Renew implements serve.Hosts.
func (n *admission) Renew(ctx context.Context, from part.Caller, r *apiv1.RenewRequest) (*apiv1.RenewResponse, error) {
	if err := n.fresh(); err != nil {
		return nil, err
	}
	host := r.GetHost()
	d, err := n.inTurn(ctx, admit.Renew, r.GetBundle(), evidenceCase{host: host, tick: r.GetTick(), from: &from})
	if err != nil {
		n.turnedBad(host, d, err)
		return nil, err
	}
	item, _ := d.Renewal()
	n.verdicts.put(host, d.Verdict().Bytes(), n.now())
	x := &renewal{item: ledger.RenewalItem{Host: host, Renewal: item}, done: make(chan error, 1),
		asked: &apiv1.Renewal{Host: host, LeaseVersion: item.Lease, Bundle: r.GetBundle(), Tick: r.GetTick(), UntilMs: item.Until, Verdict: item.Verdict[:], Resumed: item.Resumed}}
	n.renewer.add(x)
	select {
	case err = <-x.done:
	case <-ctx.Done():
		err = ctx.Err() // it may still take effect
	}
	if err != nil {
		return nil, err
	}
	return &apiv1.RenewResponse{Leaf: x.leaf, Lease: x.lease, Replayed: replayedMessage(d.State())}, nil
}

func (b *renewer) add(x ...*renewal) {
	b.mu.Lock()
	b.waiting = append(b.waiting, x...)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// loop begins a batch at most every batchEvery, unless the last one was full.
func (b *renewer) loop() {
	n := b.node
	for {
		select {
		case <-b.wake:
		case <-n.running.Done():
			return
		}
		began := time.Now()
		batch, full := b.take()
		if len(batch) > 0 {
			select {
			case b.under <- struct{}{}:
			case <-n.running.Done():
				return
			}
			n.background(func() {
				defer func() { <-b.under }()
				b.run(batch)
			})
		}
		if full {
			continue
		}
		select {
		case <-time.After(batchEvery - time.Since(began)):
		case <-n.running.Done():
			return
		}
	}
}

// take takes the next batch: each host once, within the bounds. What is left waits
// for the next one; full means that the bounds kept some of it out.
func (b *renewer) take() (batch []*renewal, full bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var left []*renewal
	hosts, size := map[string]bool{}, 0
	for _, x := range b.waiting {
		switch more := size + len(x.asked.Bundle); {
		case hosts[x.item.Host]:
			left = append(left, x)
		case len(batch) == ledger.MaxRenewals, more > batchBytes && len(batch) > 0:
			left, full = append(left, x), true
		default:
			hosts[x.item.Host], size, batch = true, more, append(batch, x)
		}
	}
	if b.waiting = left; len(left) > 0 {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
	return batch, full
}

// run brings a batch onto the ledger, in parts by who is asked first: for one host that
// is always the same node as long as it can be had, for it has replayed the host's logs.
func (b *renewer) run(batch []*renewal) {
	n := b.node
	others := n.peers.others()
	if len(others) < 2 {
		b.part(batch, others)
		return
	}
	parts := make([][]*renewal, len(others))
	for _, x := range batch {
		h := fnv.New32a()
		h.Write([]byte(x.item.Host))
		i := int(h.Sum32() % uint32(len(others)))
		parts[i] = append(parts[i], x)
	}
	var all sync.WaitGroup
	for i, part := range parts {
		if len(part) > 0 {
			all.Go(func() { b.part(part, slices.Concat(others[i:], others[:i])) })
		}
	}
	all.Wait()
}

// part brings part of a batch onto the ledger. What one node does not come to the same
// verdict on, the next is asked.
func (b *renewer) part(batch []*renewal, others []*peer) {
	n := b.node
	ctx, cancel := context.WithTimeout(n.running, 4*witnessTime)
	defer cancel()
	roster, _, clock := n.machine.roster()
	if len(roster.Nodes) == 1 {
		b.record(ctx, ledger.NewRenewals(clock, items(batch)), batch)
		return
	}
	var last error
	for _, p := range others {
		if len(batch) == 0 {
			return
		}
		var agreed []*renewal
		var second ledger.Signed
		agreed, batch, second, last = b.witnessed(ctx, p, clock, batch)
		if len(agreed) == 0 {
			continue
		}
		r := ledger.NewRenewals(clock, items(agreed))
		if err := r.Verify(second, &roster, n.cfg.Domain); err != nil {
			last, batch = err, append(batch, agreed...)
			continue
		}
		r.Signatures = append(r.Signatures, second)
		b.record(ctx, r, agreed)
	}
	for _, x := range batch {
		x.done <- x.unwitnessed(len(others), last)
	}
}

// unwitnessed says why a renewal has no second signature: what other nodes hold against
// it, or that nobody could be asked.
func (x *renewal) unwitnessed(asked int, last error) error {
	missing := keystead.Finding{Reason: keystead.ReasonPairMissing, Where: "renewal of " + x.item.Host, Want: "the same verdict by another node", Got: fmt.Sprintf("none of %d others", asked)}
	if x.held != nil {
		return keystead.Deny(append([]keystead.Finding{missing}, x.held...)...)
	}
	if last != nil && client.Unavailable(last) {
		return last
	}
	missing.Got += fmt.Sprintf(": %v", last)
	return keystead.Deny(missing)
}

func items(batch []*renewal) []ledger.RenewalItem {
	out := make([]ledger.RenewalItem, len(batch))
	for i, x := range batch {
		out[i] = x.item
	}
	return out
}

// witnessed asks another node, and parts the batch by what it agrees to.
func (b *renewer) witnessed(ctx context.Context, p *peer, clock uint64, batch []*renewal) (agreed, left []*renewal, s ledger.Signed, err error) {
	ctx, cancel := context.WithTimeout(ctx, witnessTime)
	defer cancel()
	req := &apiv1.WitnessRequest{TimeMs: clock}
	for _, x := range batch {
		req.Renewals = append(req.Renewals, x.asked)
	}
	r, err := p.nodes.Witness(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, batch, s, refusal.Decode(err)
	}
	if len(r.Msg.GetAgreed()) != len(batch) || len(r.Msg.GetSignature()) != len(s.Signature) {
		return nil, batch, s, &keystead.FormatError{Format: "witness", Field: "agreed", Problem: "is not one mark a renewal, with a signature"}
	}
	for i, x := range batch {
		if r.Msg.GetAgreed()[i] {
			agreed = append(agreed, x)
		} else {
			if left = append(left, x); i < len(r.Msg.GetRefusals()) {
				x.refused(p.Name, r.Msg.GetRefusals()[i])
			}
		}
	}
	if len(left) > 0 {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonVerdictDisagreement, Where: "node " + p.Name, Want: "the same verdicts", Got: fmt.Sprintf("others on %d of %d", len(left), len(batch))})
	}
	return agreed, left, ledger.Signed{Node: r.Msg.GetNode(), Signature: key.NodeSignature(r.Msg.GetSignature())}, err
}

// record signs a batch, has it applied, and tells what became of each renewal.
func (b *renewer) record(ctx context.Context, r *ledger.Renewals, batch []*renewal) {
	n := b.node
	var entry []byte
	k, err := n.signer()
	if err == nil {
		r.Signatures = append(r.Signatures, r.Sign(k, n.name, n.cfg.Domain))
		slices.SortFunc(r.Signatures, func(a, b ledger.Signed) int { return slices.Compare([]byte(a.Node), []byte(b.Node)) })
		entry, err = r.Entry()
	}
	var result ledger.Result
	if err == nil {
		result, err = n.propose(ctx, entry)
	}
	if errors.Is(err, keystead.ReasonRenewalReplayed) {
		err = nil // no item took effect, some since their leases last that long already: each is looked at
	}
	if err == nil {
		err = n.showing(ctx, result.Index)
	}
	outcomes := make([]error, len(batch))
	if err == nil {
		err = n.snapshot(func(v ledger.View) (err error) {
			s := n.once(v)
			for i, x := range batch {
				if outcomes[i], err = became(s, x); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for i, x := range batch {
		x.leaf = result.Leaf
		if err != nil {
			x.done <- err
		} else {
			x.done <- outcomes[i]
		}
	}
}

// became says whether a renewal took effect.
func became(s admit.State, x *renewal) (refused, err error) {
	st, err := admit.Look(s, x.item.Host)
	switch {
	case err != nil:
		return nil, err
	case st.Err != nil:
		return st.Err, nil
	case st.Version != x.item.Lease || st.Until < x.item.Until:
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseUnknown, Where: "host " + x.item.Host, Want: fmt.Sprintf("lease %d until %d", x.item.Lease, x.item.Until), Got: fmt.Sprintf("lease %d until %d", st.Version, st.Until)}), nil
	}
	x.lease = leaseMessage(&st)
	return nil, nil
}

// showing waits until the state shows what was applied by a log index.
func (n *admission) showing(ctx context.Context, index uint64) error {
	return n.reach(ctx, func(h heights) bool { return h.applied >= index })
}

// Witness implements serve.Nodes.
func (n *admission) Witness(ctx context.Context, r *apiv1.WitnessRequest) (*apiv1.WitnessResponse, error) {
	if err := n.fresh(); err != nil {
		return nil, err
	}
	if k := len(r.GetRenewals()); k == 0 || k > ledger.MaxRenewals {
		return nil, &keystead.FormatError{Format: "witness", Field: "renewals", Problem: fmt.Sprintf("are %d, not 1 to %d", k, ledger.MaxRenewals)}
	}
	out := &apiv1.WitnessResponse{Node: n.name, Agreed: make([]bool, len(r.GetRenewals())), Refusals: make([]*apiv1.Refusal, len(r.GetRenewals()))}
	for i := range out.Refusals {
		out.Refusals[i] = &apiv1.Refusal{}
	}
	judged := make([]ledger.RenewalItem, len(r.GetRenewals()))
	workers := min(len(judged), runtime.GOMAXPROCS(0))
	each(workers, func(worker int) {
		err := n.snapshot(func(v ledger.View) error {
			s := n.once(v) // terms and settings are read once for all
			for i := worker; i < len(judged); i += workers {
				var err error
				if judged[i], err = n.witness(ctx, v, s, r.GetRenewals()[i]); err != nil {
					n.log.Warn("renewal not witnessed", "host", r.GetRenewals()[i].GetHost(), "because", err)
					out.Refusals[i] = wireRefusal(err)
				}
				out.Agreed[i] = err == nil
			}
			return nil
		})
		if err != nil {
			n.log.Error("renewals not witnessed", "because", err)
		}
	})
	var agreed []ledger.RenewalItem
	for i, ok := range out.Agreed {
		if ok {
			agreed = append(agreed, judged[i])
		}
	}
	k, err := n.signer()
	if err != nil {
		return nil, err
	}
	signed := ledger.NewRenewals(r.GetTimeMs(), agreed).Sign(k, n.name, n.cfg.Domain)
	out.Signature = signed.Signature[:]
	return out, nil
}

// witness judges one renewal, and wants the other node's conclusion.
func (n *admission) witness(ctx context.Context, v ledger.View, s admit.State, r *apiv1.Renewal) (ledger.RenewalItem, error) {
	bundle, err := evidence.Parse(r.GetBundle())
	if err != nil {
		return ledger.RenewalItem{}, err
	}
	x := evidenceCase{host: r.GetHost(), bundle: bundle, tick: r.GetTick()}
	d, err := n.decideAt(v, s, admit.Renew, x, n.rulebook.opened)
	if d, err = n.reconsider(ctx, admit.Renew, x, d, err); err != nil {
		n.turnedBad(r.GetHost(), d, err)
		return ledger.RenewalItem{}, err
	}
	own, _ := d.Renewal()
	if own.Lease != r.GetLeaseVersion() || own.Until != r.GetUntilMs() || string(own.Verdict[:]) != string(r.GetVerdict()) || own.Resumed != r.GetResumed() {
		return ledger.RenewalItem{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonVerdictDisagreement, Where: "renewal of " + r.GetHost(),
			Want: fmt.Sprintf("lease %d until %d, verdict %s, resumed %t", own.Lease, own.Until, own.Verdict, own.Resumed),
			Got:  fmt.Sprintf("lease %d until %d, verdict sha256:%x, resumed %t", r.GetLeaseVersion(), r.GetUntilMs(), r.GetVerdict(), r.GetResumed())})
	}
	n.verdicts.put(r.GetHost(), d.Verdict().Bytes(), n.now())
	return ledger.RenewalItem{Host: r.GetHost(), Renewal: own}, nil
}

// each runs do for 0 to n-1, as many at once as there are processors.
func each(n int, do func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}
