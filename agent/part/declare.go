package part

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	apiv1 "github.com/keystead/keystead/api/v1"
)

// A Declaration says what a part does; what it does not say is denied.
type Declaration struct {
	// Procedures are those of the local socket that the part answers: [Unary], [Stream].
	Procedures []Procedure
	// Calls are the procedures of the API that it asks nodes.
	Calls []string
	// Metrics are for operators, under names that begin with keystead_agent_.
	Metrics []prometheus.Collector
	// Status adds to what the agent says of itself, while the agent waits: it uses no method of the
	// Host. Nil adds nothing.
	Status func(*apiv1.AgentStatusResponse)
}

// Limits are those of one procedure of the local socket. None may be 0.
type Limits struct {
	Request int           // bytes of what is asked, unpacked
	Time    time.Duration // for the answer; of a stream for each message, and a stream has no end of its own
}

// MaxTime is the longest that an answer on the local socket may take.
const MaxTime = 30 * time.Second

// A Procedure is answered on the local socket.
type Procedure struct {
	Name    string // "/PACKAGE.SERVICE/METHOD"
	Limits  Limits
	Streams bool
	// Handler makes what answers, with options of the agent's.
	Handler func(...connect.HandlerOption) http.Handler
}

// Unary is a procedure with one answer. Options are for what the procedure's own
// description has, such as that it changes nothing.
func Unary[Q, A any](name string, l Limits, answer func(context.Context, *Q) (*A, error), options ...connect.HandlerOption) Procedure {
	return Procedure{Name: name, Limits: l, Handler: func(agents ...connect.HandlerOption) http.Handler {
		return connect.NewUnaryHandler(name, func(ctx context.Context, q *connect.Request[Q]) (*connect.Response[A], error) {
			a, err := answer(ctx, q.Msg)
			if err != nil {
				return nil, err
			}
			return connect.NewResponse(a), nil
		}, append(options, agents...)...)
	}}
}

// Stream is a procedure that answers with messages until it returns.
func Stream[Q, A any](name string, l Limits, answer func(ctx context.Context, q *Q, send func(*A) error) error) Procedure {
	return Procedure{Name: name, Limits: l, Streams: true, Handler: func(agents ...connect.HandlerOption) http.Handler {
		return connect.NewServerStreamHandler(name, func(ctx context.Context, q *connect.Request[Q], s *connect.ServerStream[A]) error {
			return answer(ctx, q.Msg, s.Send)
		}, agents...)
	}}
}

var (
	procedureName = regexp.MustCompile(`^/([a-zA-Z][a-zA-Z0-9.]{0,120}\.)?[A-Z][a-zA-Z0-9]{0,60}/[A-Z][a-zA-Z0-9]{0,60}$`)
	partName      = regexp.MustCompile(`^[a-z][a-z0-9]{0,30}$`)
)

// Check reports what in the declaration of the part of that name can not be.
func (d *Declaration) Check(name string) error {
	if !partName.MatchString(name) {
		return fmt.Errorf("part %q: a name is lower case letters and digits", name)
	}
	var errs []error
	for _, p := range d.Procedures {
		switch {
		case !procedureName.MatchString(p.Name):
			errs = append(errs, fmt.Errorf("part %s: %q is no procedure, such as /keystead.v1.AgentService/AgentStatus", name, p.Name))
		case p.Limits.Request < 1 || p.Limits.Time <= 0 || p.Limits.Time > MaxTime:
			errs = append(errs, fmt.Errorf("part %s: %s has the limits %d bytes, %v: want both, and at most %v", name, p.Name, p.Limits.Request, p.Limits.Time, MaxTime))
		}
	}
	for _, c := range d.Calls {
		if !procedureName.MatchString(c) {
			errs = append(errs, fmt.Errorf("part %s: %q is no procedure that a node has", name, c))
		}
	}
	return errors.Join(errs...)
}
