package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/part"
)

// frame is what a message has beside the bundle, in bytes.
const frame = 64 << 10

// door stands in front of the library that reads and unpacks requests, and holds each to
// its row of the table before that.
type door struct {
	opts     *Options
	rows     map[string]*row
	classes  [part.Classes]*inside
	machines *Room // for evidence, by machine
	nodes    *Room // for that which nodes hand on, each by its own bound alone
	says     *connect.ErrorWriter
}

// inside is what calls of one class have now.
type inside struct {
	room    *Room
	pace    *pace // nil: as fast as it comes
	calls   atomic.Int64
	most    int64
	waiting places
}

func newDoor(procedures []part.Procedure, common []connect.HandlerOption, opts *Options) *door {
	d := &door{opts: opts, rows: rows(procedures, common, opts), machines: NewRoom(opts.Evidence.Pending), nodes: NewRoom(1 << 50), says: connect.NewErrorWriter()}
	for c, s := range shares {
		most := int64(opts.InFlight)
		if s.calls > 0 {
			most = min(most, int64(s.calls))
		}
		d.classes[c] = &inside{room: NewRoom(s.memory), most: most, waiting: places{what: "calls of " + part.Class(c).String() + " that wait", most: s.waiters, of: s.of}}
	}
	d.classes[part.ClassStranger].pace = newPace(strangerPace, strangersPace)
	return d
}

// ServeHTTP implements http.Handler.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	row := d.rows[r.URL.Path]
	if row == nil {
		http.NotFound(w, r)
		return
	}
	from := part.CallerOf(r.Context())
	leave, err := d.enter(w, r, row, from)
	if err != nil {
		d.refuse(w, r, from, began, err)
		return
	}
	leave()
}

// enter lets a call in, or says why not. What it returns is to be called when it ends.
func (d *door) enter(w http.ResponseWriter, r *http.Request, row *row, from part.Caller) (leave func(), err error) {
	if name := packed(r); name != "" {
		return nil, notPacked(name)
	}
	if err := row.allows(from); err != nil {
		return nil, err
	}
	class := from.Class()
	if class == part.ClassStranger {
		if err := row.rate.Take(r.RemoteAddr); err != nil {
			return nil, err
		}
	}
	if d.opts.Open != nil {
		if err := d.opts.Open(row.procedure); err != nil {
			return nil, &shut{err}
		}
	}
	in := d.classes[class]
	c := &call{row: row, class: class, who: pays(from, r.RemoteAddr), inside: in}
	places, err := d.places(c, in)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.end()
			places()
		}
	}()
	leaveEvidence, err := d.read(w, r, c, from)
	if err != nil {
		return nil, err
	}
	return func() {
		defer places()
		defer leaveEvidence()
		defer c.end()
		c.row.handler.ServeHTTP(w, c.with(r))
	}, nil
}

// shut is why a procedure is not answered by anybody's call now: no limit.
type shut struct{ error }

func (s *shut) Unwrap() error { return s.error }

// allows refuses who may not call a procedure at all.
func (r *row) allows(from part.Caller) error {
	switch {
	case r.From == part.ClassStranger || from.Node != "", r.From == part.ClassHost && !from.EK.IsZero():
		return nil
	case strings.HasPrefix(r.procedure, "/"+apiv1connect.NodeServiceName+"/"):
		return keystead.Deny(notNode())
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonEvidenceMissing, Where: "connection", Want: "an attested connection of a host or a node", Got: "one without evidence"})
}

// places takes those that a call has while it is under way.
func (d *door) places(c *call, in *inside) (leave func(), err error) {
	var left []func()
	all := func() {
		for _, f := range left {
			f()
		}
	}
	defer func() {
		if err != nil {
			all()
		}
	}()
	if !c.row.Uncounted {
		if !in.enter(1) {
			return nil, overloaded()
		}
		left = append(left, func() { in.leave(1) })
	}
	if c.row.Waits {
		out, err := in.waiting.enter(c.who)
		if err != nil {
			return nil, err
		}
		left = append(left, out)
	}
	if c.row.flight != nil && c.class == part.ClassStranger {
		out, err := c.row.flight.enter(c.who)
		if err != nil {
			return nil, err
		}
		left = append(left, out)
	}
	return all, nil
}

// enter takes up n of the calls and transactions that may be under way.
func (in *inside) enter(n int) bool {
	if in.calls.Add(int64(n)) > in.most {
		in.calls.Add(-int64(n))
		return false
	}
	return true
}

func (in *inside) leave(n int) { in.calls.Add(-int64(n)) }

func overloaded() error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonOverloaded, Where: "api", Want: "fewer requests and transactions under way", Got: "api.max-in-flight of them"})
}

// read reads a call's one message, or prepares to read many.
func (d *door) read(w http.ResponseWriter, r *http.Request, c *call, from part.Caller) (leave func(), err error) {
	leave = func() {}
	late := func(after time.Duration) (end func()) {
		body := http.NewResponseController(w)
		// Both versions of HTTP have a deadline for reading. Over HTTP/1 it is the connection's,
		// and the next request's head has another.
		return watch(after, func() { _ = body.SetReadDeadline(time.Now().Add(-time.Second)) })
	}
	s := newSource(c, r)
	s.done = r.Context().Done()
	switch {
	case c.row.sends:
		s.began = func() func() { return late(d.opts.Timeout) }
		r.Body = &stream{source: s}
		if c.row.endless {
			return leave, nil
		}
		return late(c.row.Time), nil
	case r.Method != http.MethodPost: // the library takes GET, and nothing else
		return leave, c.take(int64(len(r.URL.RawQuery))*perRead, &c.message)
	case c.row.In == 0:
		if s.limit, leave, err = d.evidence(r, from); err != nil {
			return nil, err
		}
		s.perByte = 0 // it is paid for
	}
	end := late(c.row.Time)
	within, cancel := context.WithTimeout(r.Context(), c.row.Time)
	s.done = within.Done()
	message, err := s.next()
	cancel()
	end()
	switch {
	case errors.Is(err, io.EOF):
		message = nil // the library says what is wrong with that
	case err != nil:
		leave()
		return nil, untimely(err)
	}
	r.Body, r.ContentLength = &once{message}, int64(len(message))
	return leave, nil
}

// evidence makes room for a message with bundles as it is announced, before any of it is
// read.
func (d *door) evidence(r *http.Request, from part.Caller) (limit int64, leave func(), err error) {
	whole := d.opts.Evidence.Bundle
	if from.Node != "" {
		whole = maxEvidence
	}
	limit = whole + frame
	size := r.ContentLength
	switch {
	case size > limit:
		return 0, nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Where: "evidence", Want: fmt.Sprintf("at most %d bytes (evidence.bundle-mib)", limit), Got: fmt.Sprintf("%d bytes", size)})
	case size < 0:
		size = whole
	}
	if from.Node != "" {
		leave, err = d.nodes.Enter(from.Node, min(size, whole), d.opts.Evidence.Node)
	} else {
		leave, err = d.machines.Enter(from.EK, min(size, whole), d.opts.Evidence.Machine)
	}
	return limit, leave, err
}

// untimely says of a body that ended too late, or not at all, that it did.
func untimely(err error) error {
	var deny *keystead.DenyError
	var format *keystead.FormatError
	if errors.As(err, &deny) || errors.As(err, &format) {
		return err
	}
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Where: "request", Want: "its body, whole and in time", Got: err.Error()})
}

// refusedFor is how long a stranger waits for the word that there is no room: one who asks
// again at once would have the node do nothing but say so.
const refusedFor = 500 * time.Millisecond

// refuse answers a call that is not let in.
func (d *door) refuse(w http.ResponseWriter, r *http.Request, from part.Caller, began time.Time, err error) {
	if from.Class() == part.ClassStranger && errors.Is(err, keystead.ReasonOverloaded) && !Own(Source(r.RemoteAddr)) {
		select {
		case <-time.After(refusedFor):
		case <-r.Context().Done():
		}
	}
	if r.ProtoMajor == 1 { // what is left of the body is not waited for
		w.Header().Set("Connection", "close")
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second)) // HTTP/1 has it
	}
	out := refusal.Encode(err)
	_ = d.says.Write(w, r, out) // who is gone is not told
	if d.opts.Observe != nil {
		d.opts.Observe(r.URL.Path, connect.CodeOf(out).String(), time.Since(began))
	}
	if d.opts.Refused != nil && errors.As(err, new(*shut)) {
		d.opts.Refused(err)
		return
	}
	if d.opts.Limited != nil && !errors.Is(err, keystead.ReasonEvidenceMissing) && !errors.Is(err, keystead.ReasonNotMember) {
		d.opts.Limited(from.Class(), r.RemoteAddr, r.URL.Path, err)
	}
}
