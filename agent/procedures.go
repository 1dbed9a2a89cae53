package agent

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead/agent/part"
	"github.com/keystead/keystead/internal/refusal"
)

// procedures answers what is declared, each within its limits. Of anything else it knows nothing.
func procedures(declared []part.Procedure, failed func(error)) http.Handler {
	mux := http.NewServeMux()
	for _, p := range declared {
		h := p.Handler(connect.WithReadMaxBytes(p.Limits.Request), connect.WithInterceptors(within{p.Limits.Time, failed}))
		if p.Streams {
			h = unhurried(h)
		}
		mux.Handle(p.Name, h)
	}
	return mux
}

// within gives every answer, and every message of a stream, its time, and every error its wire
// form.
type within struct {
	time   time.Duration
	failed func(error)
}

func (w within) encode(err error) error {
	if err != nil && refusal.Deny(err) == nil {
		w.failed(err)
	}
	return refusal.Encode(err)
}

// WrapUnary implements connect.Interceptor.
func (w within) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, w.time)
		defer cancel()
		out, err := next(ctx, r)
		return out, w.encode(err)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (within) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (w within) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		err := next(ctx, inTime{conn, ctx, w.time})
		if ctx.Err() != nil { // nobody listens any more
			return ctx.Err()
		}
		return w.encode(err)
	}
}

// inTime sends messages, each of which may take as long as an answer; between them there is no
// deadline.
type inTime struct {
	connect.StreamingHandlerConn
	ctx  context.Context
	time time.Duration
}

// Send implements connect.StreamingHandlerConn.
func (c inTime) Send(message any) error {
	to, ok := c.ctx.Value(controllerKey{}).(*http.ResponseController)
	if ok {
		_ = to.SetWriteDeadline(time.Now().Add(c.time)) // both versions of HTTP have it
		defer func() { _ = to.SetWriteDeadline(time.Time{}) }()
	}
	return c.StreamingHandlerConn.Send(message)
}

type controllerKey struct{}

// unhurried takes the deadlines of a request off a stream's: inTime sets one for each message.
func unhurried(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_ = c.SetReadDeadline(time.Time{})
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), controllerKey{}, c)))
	})
}
