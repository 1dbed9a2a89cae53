package appagent

import (
	"context"
	"time"

	"github.com/keystead/keystead/agent/part"
	appv1 "github.com/keystead/keystead/api/app/v1"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
)

// launching returns what a visitor is to launch, and who that is.
func (p *Part) launching(ctx context.Context) (l part.Launching, id app.Identity, err error) {
	v, err := p.host.Visitor(ctx)
	if err != nil {
		return l, id, err
	}
	if l, err = v.Launching(ctx); err != nil {
		return l, id, err
	}
	id, err = p.terms.verify(ctx, l.Note, l.Program)
	return l, id, err
}

// prepare judges the program that is to be launched, before any of it runs.
func (p *Part) prepare(ctx context.Context, q *appv1.PrepareRequest) (*appv1.PrepareResponse, error) {
	_, id, err := p.launching(ctx)
	if err == nil {
		err = id.Admits(process.Launched, p.opts.Host, q.GetUid())
	}
	if err != nil {
		p.opts.Log.Info("program not launched", "user", q.GetUid(), "because", err)
		return nil, err
	}
	return &appv1.PrepareResponse{Name: id.Name(), Roots: p.terms.known()}, nil
}

// watch is how often it is looked whether a launched program may still run.
const watch = time.Second

// hold takes the process that runs the prepared program, and tells when it has to end: once its
// certificate is denied or over, or a root does not admit it any more.
func (p *Part) hold(ctx context.Context, q *appv1.HoldRequest, send func(*appv1.HoldResponse) error) error {
	l, id, err := p.launching(ctx)
	if err != nil {
		return err
	}
	var found *part.Look
	alive, err := l.Adopt(ctx, q.GetSocket(), func(look *part.Look) (err error) {
		found = look
		_, err = p.identify(ctx, look)
		return err
	})
	if err != nil {
		p.opts.Log.Info("program not launched", "application", id.Name(), "because", err)
		return err
	}
	p.opts.Log.Info("program launched", "application", id.Name(), "program", id.Program(), "user", found.UID)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p.host.Go(func(agents context.Context) { // the agent waits for streams when it ends
		select {
		case <-agents.Done():
			stop()
		case <-ctx.Done():
		}
	})
	if err := send(&appv1.HoldResponse{}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watch):
		}
		if alive() != nil {
			return nil
		}
		if _, err := p.identify(ctx, found); err != nil {
			p.opts.Log.Info("launched program has to end", "application", id.Name(), "because", err)
			return err
		}
	}
}
