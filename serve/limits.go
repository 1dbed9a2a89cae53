package serve

import (
	"fmt"
	"net/http"
	"path"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keystead/keystead/part"
)

// Sizes of messages, in bytes.
const (
	small       = 4 << 10
	usual       = 64 << 10
	transaction = 7 << 18 // an entry is 1 MiB at most, in base64 a third more
	answers     = 7 << 20 // two of three receipts' worth: one of the largest entry, with its chain, fits
	chunk       = 256 << 10
	objectTime  = 5 * time.Minute // for a client to hand in an object
)

// What a class has altogether.
type share struct {
	memory  int64 // bytes, of which each byte that is read takes eight and each that is answered two
	calls   int   // at a time; 0: Options.InFlight
	waiters int   // at a time
	of      int   // of them of one address or key
}

// shares bound what all callers of a class have at a time.
var shares = [part.Classes]share{
	part.ClassStranger: {64 << 20, 4096, 64, 16},
	part.ClassClient:   {128 << 20, 0, 1024, 1024},
	part.ClassHost:     {128 << 20, 0, 1024, 16},
	part.ClassNode:     {128 << 20, 0, 1024, 64},
}

// How fast strangers' messages are read, in bytes a second: of one address, and of all.
const (
	strangerPace  = 2 << 20
	strangersPace = 16 << 20
)

// What memory is charged for a byte.
const (
	perRead     = 8 // as it comes, by the library that reads and unpacks it, and in what it becomes
	perAnswered = 2 // in the message, and as it is sent
	perHeld     = 3 // of a transaction, until it has an outcome
)

// row is a procedure with its limits.
type row struct {
	part.Limits
	handler   http.Handler
	procedure string
	message   protoreflect.MessageDescriptor // that is sent
	sends     bool                           // a stream
	endless   bool                           // which goes on as long as the client likes
	rate      *Rate
	flight    *places // of strangers; nil if they are not counted
}

// rows makes the table of limits: each procedure that is answered has a row, and what has none
// is not answered. Nothing of a call is unpacked or kept before it is held to its row.
func rows(procedures []part.Procedure, common []connect.HandlerOption, opts *Options) map[string]*row {
	out, rate := map[string]*row{}, NewRate(opts.Rate)
	for i := range procedures {
		p := &procedures[i]
		if out[p.Path] != nil {
			continue
		}
		r := &row{procedure: p.Path, message: p.Input, sends: p.Sends, rate: rate, handler: p.Handler(common...)}
		r.hold(p.Limits, opts)
		out[p.Path] = r
	}
	return out
}

// hold has the row take limits.
func (r *row) hold(limits part.Limits, opts *Options) {
	r.Limits = limits
	if r.Time == 0 {
		r.Time, r.endless = opts.Timeout, r.sends
	}
	if r.Rate > 0 && opts.Rate > 0 {
		r.rate = NewRate(min(r.Rate, opts.Rate))
	}
	if r.Flight > 0 {
		r.flight = &places{what: "calls of " + path.Base(r.procedure), most: r.Flight, of: max(1, r.Flight/4)}
	}
}

// Check reports what is wrong with the limits of a procedure: that they bound nothing, or more
// than a stranger ever gets.
func Check(p *part.Procedure) error {
	l := &p.Limits
	strangers := shares[part.ClassStranger].memory / 4
	switch {
	case l.Values <= 0 || l.Out <= 0 || l.In < 0 || l.In == 0 && l.From == part.ClassStranger:
		return fmt.Errorf("%s: %+v bounds too little", p.Path, *l)
	case l.From == part.ClassStranger && l.In*perRead > strangers:
		return fmt.Errorf("%s: one message takes %d bytes, which no stranger gets", p.Path, l.In*perRead)
	case l.From == part.ClassStranger && !l.Shown && l.Out*perAnswered > strangers:
		return fmt.Errorf("%s: one answer takes %d bytes, which no stranger gets", p.Path, l.Out*perAnswered)
	}
	return nil
}
