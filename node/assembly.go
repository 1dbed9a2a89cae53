package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/serve"
)

// An assembly is the parts of a node, with what each declared. Of all that can be declared but
// once - procedures, judged types, contracts, contexts - no two parts have the same.
type assembly struct {
	parts   []part.Part
	hosts   []*host
	sees    map[receipt.Kind]bool
	started int // of parts
}

// assemble has parts declare themselves.
func assemble(n *Node, parts []part.Part) (*assembly, error) {
	a := &assembly{parts: parts, sees: map[receipt.Kind]bool{}}
	owners := map[string]string{}
	var errs []error
	own := func(part, what string) {
		if by, taken := owners[what]; taken {
			errs = append(errs, fmt.Errorf("part %s declares %s, which is declared by %s", part, what, by))
		}
		owners[what] = part
	}
	for _, p := range parts {
		h := &host{node: n, name: p.Name()}
		p.Declare(&h.declared)
		own(h.name, "part "+h.name)
		for _, x := range h.declared.Procedures {
			own(h.name, "procedure "+x.Path)
			errs = append(errs, serve.Check(&x))
		}
		for _, x := range h.declared.Judges {
			own(h.name, "judged type "+x.Type)
		}
		for x := range h.declared.Objects {
			own(h.name, "object kind "+x)
		}
		for _, x := range h.declared.Contracts {
			own(h.name, "contract "+x)
		}
		for _, x := range h.declared.Signs {
			if own(h.name, "signing context "+x); x == "" || strings.Contains(x, "\n") {
				errs = append(errs, fmt.Errorf("part %s declares signing context %q, not one line", h.name, x))
			}
		}
		for _, kind := range h.declared.Sees {
			a.sees[kind] = true
		}
		a.hosts = append(a.hosts, h)
	}
	return a, errors.Join(errs...)
}

func (a *assembly) procedures() (out []part.Procedure) {
	for _, h := range a.hosts {
		out = append(out, h.declared.Procedures...)
	}
	return out
}

func (a *assembly) judges() (out []part.JudgedType) {
	for _, h := range a.hosts {
		out = append(out, h.declared.Judges...)
	}
	return out
}

// readers are those of the kinds of objects that the parts read.
func (a *assembly) readers() map[string]admit.Reader {
	out := map[string]admit.Reader{}
	for _, h := range a.hosts {
		maps.Copy(out, h.declared.Objects)
	}
	return out
}

// register has metrics of the parts be told with the node's own.
func (a *assembly) register(to prometheus.Registerer) error {
	var errs []error
	for _, h := range a.hosts {
		for _, m := range h.declared.Metrics {
			if err := to.Register(m); err != nil {
				errs = append(errs, fmt.Errorf("part %s: %w", h.name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// start starts the parts in order.
func (a *assembly) start(ctx context.Context) error {
	for i, p := range a.parts {
		a.started = i + 1
		if err := p.Start(ctx, a.hosts[i]); err != nil {
			return fmt.Errorf("part %s: %w", a.hosts[i].name, err)
		}
	}
	return nil
}

// applied hands a batch to the parts: to each the entries that it sees.
func (a *assembly) applied(b part.Batch) {
	all := b.Entries
	for i, p := range a.parts {
		b.Entries = a.hosts[i].declared.Seen(all)
		p.Applied(b)
	}
}

// close closes the parts that were started, the last one first.
func (a *assembly) close() error {
	var errs []error
	for a.started > 0 {
		a.started--
		errs = append(errs, a.parts[a.started].Close())
	}
	return errors.Join(errs...)
}
