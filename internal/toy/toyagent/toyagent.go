// Package toyagent is the toy's presence on an agent: while the host has a lease it greets the
// applications of the machine.
package toyagent

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/keystead/keystead/agent/part"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/internal/toy"
)

// A Part greets.
type Part struct {
	host      part.Host
	greetings prometheus.Counter
	open      atomic.Bool // there is a lease
	lost      atomic.Int64
}

// New returns the part.
func New(host part.Host) *Part {
	return &Part{host: host, greetings: prometheus.NewCounter(prometheus.CounterOpts{Name: "keystead_agent_toy_greetings_total", Help: "Greetings."})}
}

// Name implements part.Part.
func (*Part) Name() string { return "toy" }

// Declare implements part.Part.
func (p *Part) Declare(d *part.Declaration) {
	d.Procedures = append(d.Procedures, part.Unary(toy.Greet, part.Limits{Request: 1 << 10, Time: time.Second}, p.greet))
	d.Calls = []string{apiv1connect.HostServiceNonceProcedure}
	d.Metrics = []prometheus.Collector{p.greetings}
}

// Leased implements part.Part.
func (p *Part) Leased(part.Lease) { p.open.Store(true) }

// Lost implements part.Part.
func (p *Part) Lost(part.Loss) {
	p.open.Store(false)
	p.lost.Add(1)
}

// Losses is how often a lease was lost.
func (p *Part) Losses() int64 { return p.lost.Load() }

// Close implements part.Part.
func (p *Part) Close() error { p.open.Store(false); return nil }

// Tick asks a node for the newest tick of the ledger.
func (p *Part) Tick(ctx context.Context) (uint64, error) {
	var r apiv1.NonceResponse
	err := p.host.Call(ctx, apiv1connect.HostServiceNonceProcedure, &apiv1.NonceRequest{}, &r)
	return r.GetTick(), err
}

// Admit asks a node for what the part did not declare.
func (p *Part) Admit(ctx context.Context) error {
	return p.host.Call(ctx, apiv1connect.HostServiceAdmitProcedure, &apiv1.AdmitRequest{}, &apiv1.AdmitResponse{})
}

func (p *Part) greet(ctx context.Context, name *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	lease, _, err := p.host.Lease()
	if err != nil {
		return nil, err
	}
	v, err := p.host.Visitor(ctx)
	if err != nil {
		return nil, err
	}
	facts, err := v.Measure(ctx)
	if err != nil {
		return nil, err
	}
	text, err := toy.Greeting(lease.Host, name.GetValue())
	if err != nil {
		return nil, err
	}
	p.greetings.Inc()
	return wrapperspb.String(fmt.Sprintf("%s, to uid %d at level %s, %s", text, v.User(), facts.Level, facts.Digest)), nil
}
