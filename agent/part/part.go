// Package part is the seam of an agent: what a system's presence on a host is, and what the
// agent hands it. An agent is an assembly of parts and knows none of their systems; they are
// listed in agent/parts.go alone.
//
// What a part does not declare is denied: a procedure of the local socket that no part declared
// answers nobody, and a node is asked nothing that was not declared. A part is trusted as the
// agent is, in whose process it runs: the seam keeps mistakes in, not malice.
//
//	type greeter struct{ host part.Host }
//
//	func (g *greeter) Name() string { return "greeter" }
//	func (g *greeter) Declare(d *part.Declaration) {
//		d.Procedures = append(d.Procedures, part.Unary("/greeter.v1.GreeterService/Greet", part.Limits{Request: 1 << 10, Time: time.Second}, g.greet))
//	}
//
// The other three methods tell it of leases and end it.
package part

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/evidence/process"
)

// A Part is a system's presence on a host. It is made with the [Host] that is its own, declares,
// and is told of leases until Close.
type Part interface {
	// Name is the part's, once in an agent: lower case letters and digits.
	Name() string
	// Declare says, once and before all else, what the part does.
	Declare(*Declaration)
	// Leased tells that there is a lease, or that it was renewed. Leased and Lost come one at a
	// time, in the order in which it happened, while the agent waits: they return at once, and of
	// the Host they use Go alone.
	Leased(Lease)
	// Lost tells that what a lease gave has to go, there and then. It may come more than once,
	// and without a lease before.
	Lost(Loss)
	// Close ends the part, after all that it began with Go has returned.
	Close() error
}

// A Host is what the agent hands to one part. Its methods may be used from the first Leased, Lost
// or answer on.
type Host interface {
	// Lease returns the lease and how much is left of it, or why there is none.
	Lease() (l Lease, left time.Duration, err error)
	// Visitor returns who asks, within the answer to a declared procedure.
	Visitor(context.Context) (Visitor, error)
	// Call asks the domain's nodes, on connections on which both sides showed evidence, one after
	// the other until one answers. The procedure is one of the API's, and declared. A refusal
	// that says that this host has no lease ends the lease here, too, before Call returns it.
	Call(ctx context.Context, procedure string, question, answer proto.Message) error
	// Ledger reads the domain's ledger. What it returns is the node's word that was asked, save
	// for what the roster's keys signed.
	Ledger() Ledger
	// Go runs work beside, until the agent closes: then ctx ends, and the agent waits for it.
	Go(work func(ctx context.Context))
}

// A Visitor is an application that is connected to the local socket.
type Visitor interface {
	// User is its effective user id when it connected.
	User() uint32
	// Measure says which program the process runs now (collect.Peer), at level peer. A user has
	// a bounded number of measurements under way.
	Measure(context.Context) (process.Facts, error)
	// Look measures the memory of a signed program that runs (collect/process), at level measured
	// or, of one that keystead run launched, launched. It counts as a measurement. All that came on
	// the connection must be of that very process (sender-foreign).
	Look(context.Context) (*Look, error)
	// Present asks the connection for a sign of life, by a PING of HTTP/2 that its client answers by
	// itself, and fails if another than the process that connected gave it (sender-foreign), or
	// none came. Who measured the process before it knows then that it holds the connection still.
	Present(context.Context) error
	// Launching returns what the visitor is about to launch, if it is the agent's own program, run by
	// root, and sent a sealed copy of another along (launch-unsealed).
	Launching(context.Context) (Launching, error)
}

// A Launching is a program that keystead run is to launch, or has launched.
type Launching struct {
	Note    *app.Note
	Program app.Measured // of the sealed copy

	// Adopt takes the process that was launched, whose pidfd and, with socket, connection were sent
	// along, if it runs the sealed copy (launch-unsealed) and the check passes. From then on it is
	// known at level launched. Alive fails once it has ended.
	Adopt func(ctx context.Context, socket bool, check func(*Look) error) (alive func() error, err error)
}

// A Look is what a process was found to run at one moment. Who it is, the roots of a domain say.
type Look struct {
	Level    process.Level
	Note     *app.Note
	Program  app.Measured
	Mappings []app.Mapping
	Coverage app.Coverage
	UID      uint32 // effective
	Inode    uint64 // of the process in pidfs
	Path     string // of the executable; empty for one that was launched

	// Again says that all of it still holds, and that nobody else sent on the connection. It is
	// asked before an answer goes out.
	Again func(context.Context) error
}

// A Releaser is a part that answers for signed programs, when they ask the agent for a key.
type Releaser interface {
	// Challenge has the program of a visitor measured, and returns what its report has to answer,
	// and what answers the report. The agent sees to it that the report answers that challenge, in
	// time and once, on the same connection.
	Challenge(context.Context, Visitor) (Challenge, error)
}

// A Challenge is one that a report has to answer.
type Challenge struct {
	Bytes  [32]byte
	Answer func(ctx context.Context, report []byte) (*apiv1.ReleaseKeyResponse, error)
}

// A Moment is a reading of CLOCK_BOOTTIME, which goes on while the machine sleeps and
// which nobody sets.
type Moment time.Duration

// Sub returns the time from o to m.
func (m Moment) Sub(o Moment) time.Duration { return time.Duration(m - o) }

// Add returns the moment d later.
func (m Moment) Add(d time.Duration) Moment { return m + Moment(d) }

// Lease is what a node answered to evidence that was accepted. It is the node's word;
// the ledger has the lease itself.
type Lease struct {
	Host      string
	Version   uint64
	Assurance string
	Verdict   string
	Asked     Moment        // before the nonce was asked for
	Holds     time.Duration // from there
}

// End is when the lease is over, if nothing ends it before.
func (l Lease) End() Moment { return l.Asked.Add(l.Holds) }

// Loss is how a lease ended.
type Loss struct {
	// Silent: it ran out because no node answered, and none refused. What may be held on while
	// the domain can not be reached stays, counted from Ended.
	Silent bool
	Ended  Moment // the lease's own end; 0 if there was none
}
