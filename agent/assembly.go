package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/agent/part"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
)

// A maker makes a part for the seat that it gets.
type maker func(part.Host) (part.Part, error)

// An entry is a field of a new configuration.
type entry struct{ table, field, value string }

// A seat is a part's place in the agent: the Host that it is handed, with what it declared.
type seat struct {
	agent    *Agent
	name     string
	part     part.Part
	declared part.Declaration
}

// assemble makes the parts and takes what they declare. Two that serve one procedure, or have
// one name, are an error.
func (a *Agent) assemble(makers []maker) error {
	served := map[string]string{}
	for _, p := range a.own() {
		served[p.Name] = "agent"
	}
	for _, make := range makers {
		s := &seat{agent: a}
		p, err := make(s)
		if err != nil {
			return err
		}
		s.part, s.name = p, p.Name()
		p.Declare(&s.declared)
		a.seats = append(a.seats, s) // Close ends it, whatever is wrong with it
		if r, ok := p.(part.Releaser); ok {
			if a.releaser != nil {
				return fmt.Errorf("part %s answers for signed programs, which another does", s.name)
			}
			a.releaser = r
		}
		if err := s.declared.Check(s.name); err != nil {
			return err
		}
		if slices.ContainsFunc(a.seats[:len(a.seats)-1], func(o *seat) bool { return o.name == s.name }) {
			return fmt.Errorf("two parts are named %s", s.name)
		}
		for _, o := range s.declared.Procedures {
			if by := served[o.Name]; by != "" {
				return fmt.Errorf("parts %s and %s both serve %s", by, s.name, o.Name)
			}
			served[o.Name] = s.name
		}
		for _, m := range s.declared.Metrics {
			if err := a.ops.register(m); err != nil {
				return fmt.Errorf("part %s: %w", s.name, err)
			}
		}
	}
	return nil
}

// procedures are all that the local socket answers.
func (a *Agent) procedures() []part.Procedure {
	out := a.own()
	for _, s := range a.seats {
		out = append(out, s.declared.Procedures...)
	}
	return out
}

// closeParts ends the parts, the last one first.
func (a *Agent) closeParts() error {
	var errs []error
	for _, s := range slices.Backward(a.seats) {
		errs = append(errs, s.part.Close())
	}
	return errors.Join(errs...)
}

// Lease implements part.Host.
func (s *seat) Lease() (part.Lease, time.Duration, error) {
	a := s.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	l, err := a.core.Lease(now)
	return l, l.End().Sub(now), err
}

// Visitor implements part.Host.
func (s *seat) Visitor(ctx context.Context) (part.Visitor, error) {
	v, ok := ctx.Value(visitorKey{}).(*visitor)
	if !ok {
		return nil, errors.New("nobody asks: the context is of no procedure on the local socket")
	}
	if v.err != nil {
		return nil, v.err
	}
	return v, nil
}

// Call implements part.Host.
func (s *seat) Call(ctx context.Context, procedure string, question, answer proto.Message) error {
	if !slices.Contains(s.declared.Calls, procedure) {
		return fmt.Errorf("part %s asks %s, which it did not declare", s.name, procedure)
	}
	return s.agent.told(s.agent.host.Call(ctx, procedure, question, answer))
}

// told passes on what a node answered, and has the lease end if that is what it says.
func (a *Agent) told(err error) error {
	if err != nil && (!client.Unavailable(err) || errors.Is(err, keystead.ReasonLeaseExpired)) {
		a.do(func(c *Core, now Moment) Ready { return c.Told(now, err) })
	}
	return err
}

// Ledger implements part.Host.
func (s *seat) Ledger() part.Ledger { return reader{s.agent} }

// Go implements part.Host.
func (s *seat) Go(work func(context.Context)) {
	if s.agent.ctx.Err() == nil {
		s.agent.tasks.Go(func() { work(s.agent.ctx) })
	}
}

// reader reads the ledger for parts.
type reader struct{ agent *Agent }

// Domain implements part.Ledger.
func (r reader) Domain(ctx context.Context, fresh bool) (part.Domain, error) {
	age := learnAge
	if fresh {
		age = judgeAge
	}
	view, _ := r.agent.nodes.current()
	if view == nil || fresh {
		if err := r.agent.learn(ctx, age); err != nil {
			return part.Domain{}, err
		}
		view, _ = r.agent.nodes.current()
	}
	return part.Domain{Digest: r.agent.cfg.Domain, Name: view.Genesis.Name, Nodes: slices.Clone(view.Roster.Nodes)}, nil
}

// Read implements part.Ledger. Its connection is not kept: there are many hosts, and they ask
// seldom.
func (r reader) Read(ctx context.Context, keys ...string) ([][]byte, error) {
	domain := r.agent.domain
	defer domain.Close()
	answer, err := domain.Read(ctx, false, keys...)
	if err != nil {
		return nil, err
	}
	if len(answer.GetValues()) != len(keys) {
		return nil, &keystead.FormatError{Format: "state", Field: "values", Problem: "are not one for each key"}
	}
	var out [][]byte
	for _, v := range answer.GetValues() {
		out = append(out, v.GetValue())
	}
	return out, nil
}

// Terms implements part.Ledger.
func (r reader) Terms(ctx context.Context) ([]byte, error) {
	view, _ := r.agent.nodes.current()
	if view == nil {
		return nil, errors.New("the domain's nodes were not reached yet")
	}
	defer r.agent.domain.Close()
	return r.agent.domain.Terms(ctx, admit.RoleHost, &view.Genesis)
}

// Object implements part.Ledger.
func (r reader) Object(ctx context.Context, d keystead.Digest) ([]byte, error) {
	defer r.agent.domain.Close()
	return r.agent.domain.GetObject(ctx, d)
}

// Denied implements part.Ledger.
func (r reader) Denied(ctx context.Context, subjects ...string) ([]bool, error) {
	defer r.agent.domain.Close()
	return r.agent.domain.Denied(ctx, subjects...)
}

// say adds what parts say of the host. The lock is held.
func (a *Agent) say(s *apiv1.AgentStatusResponse) {
	for _, p := range a.seats {
		if p.declared.Status != nil {
			p.declared.Status(s)
		}
	}
}
