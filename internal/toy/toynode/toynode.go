// Package toynode is the toy's presence on a node: it greets whoever asks, by the nickname that
// members gave, signs what it says, and leaves a record of whom it greeted.
package toynode

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/keystead/keystead/internal/toy"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// A Part greets.
type Part struct {
	Without string // leaves this out of the declaration: a test shows what is refused then

	host      part.Host
	greetings prometheus.Counter
	effective atomic.Int64
}

// New returns the part.
func New() *Part {
	return &Part{greetings: prometheus.NewCounter(prometheus.CounterOpts{Name: "keystead_toy_greetings_total", Help: "Greetings."})}
}

// Name implements part.Part.
func (*Part) Name() string { return "toy" }

// Declare implements part.Part.
func (p *Part) Declare(d *part.Declaration) {
	for what, declare := range map[string]func(){
		"procedure": func() {
			d.Procedures = append(d.Procedures, part.Unary(toy.Greet, part.Limits{In: 1 << 10, Values: 4, Out: 1 << 10}, p.greet))
		},
		"type": func() {
			d.Judges = append(d.Judges, part.JudgedType{Type: toy.TypeNickname, Statement: toy.KindNickname, Judge: judge})
		},
		"contract": func() { d.Contracts = append(d.Contracts, toy.Contract) },
		"context":  func() { d.Signs = append(d.Signs, toy.Context) },
		"kind":     func() { d.Proposes = append(d.Proposes, receipt.KindEndorsement) },
		"sees":     func() { d.Sees = append(d.Sees, receipt.KindEffective) },
		"metric":   func() { d.Metrics = append(d.Metrics, p.greetings) },
	} {
		if what != p.Without {
			declare()
		}
	}
}

// Start implements part.Part.
func (p *Part) Start(_ context.Context, h part.Host) error { p.host = h; return nil }

// Applied implements part.Part.
func (p *Part) Applied(b part.Batch) { p.effective.Add(int64(len(b.Entries))) }

// Close implements part.Part.
func (p *Part) Close() error { return nil }

// Effective is how many effective entries the part was told of.
func (p *Part) Effective() int64 { return p.effective.Load() }

// Host is what the part was handed, for tests that ask for more than it declared.
func (p *Part) Host() part.Host { return p.host }

// judge takes the nickname that members give a name.
func judge(_ context.Context, h *part.Hearing, out *ledger.Verdict) error {
	text, by, err := key.Open(h.Proposal.Content, toy.KindNickname, h.Roster.Members...)
	if err == nil && len(by) < h.Roster.Threshold {
		err = errors.New("too few members signed")
	}
	if err != nil {
		return err
	}
	name, err := toy.ParseNickname(text)
	out.Writes = []ledger.Write{{Key: toy.TypeNickname + "/" + h.Proposal.Subject, Value: []byte(name)}}
	return err
}

func (p *Part) greet(ctx context.Context, q *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	name := q.GetValue()
	err := p.host.State().Snapshot(func(v ledger.View) error {
		x, err := v.Judged(toy.TypeNickname + "/" + name)
		if x.Version != 0 {
			name = string(x.Data)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	said, err := toy.Greeting(p.host.Self().Name, name)
	if err != nil {
		return nil, err
	}
	signature, err := p.host.Log().Sign(toy.Context, []byte(said))
	if err != nil {
		return nil, err
	}
	if err := p.host.Log().Transact(ctx, toy.Contract, []ledger.Write{{Key: toy.Contract + "/last", Value: signature[:]}}); err != nil {
		return nil, err
	}
	p.greetings.Inc()
	return wrapperspb.String(said), nil
}
