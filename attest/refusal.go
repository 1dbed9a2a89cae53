package attest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"github.com/keystead/keystead"
)

// told returns what the peer is told of why this side refuses.
func told(err error) []keystead.Finding {
	var deny *keystead.DenyError
	if errors.As(err, &deny) && len(deny.Findings) > 0 {
		return deny.Findings
	}
	return []keystead.Finding{{Reason: keystead.ReasonAttestationFailed, Where: "the other side", Want: "evidence made and judged", Got: "a fault of its own"}}
}

// RefusedError is the peer's refusal of this side's evidence, in the peer's words.
type RefusedError struct{ Findings []keystead.Finding }

// Error gives the first finding and the number of further ones.
func (e *RefusedError) Error() string { return "attest: the peer says: " + e.deny().Error() }

// Unwrap returns the findings as a *keystead.DenyError.
func (e *RefusedError) Unwrap() error { return e.deny() }

func (e *RefusedError) deny() *keystead.DenyError {
	return &keystead.DenyError{Findings: slices.Clone(e.Findings)}
}

// explain puts what ended an attempt in terms of reasons where there is one: a peer
// that says what does not parse (malformed), does not speak TLS as this side does
// (channel-unsuitable), or lets time run out (timeout). Others, such as a connection
// that was cut, stay as they are.
func explain(ctx context.Context, err error, inTLS bool) error {
	var deny *keystead.DenyError
	var badFormat *keystead.FormatError
	switch {
	case errors.As(err, &deny):
		return err
	case errors.As(err, &badFormat):
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonMalformed, Where: "attestation", Want: "frames and evidence that parse", Got: badFormat.Error()})
	case timedOut(err) && !errors.Is(ctx.Err(), context.Canceled):
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Where: "attestation", Want: "all of it in time", Got: err.Error()})
	case ctx.Err() != nil:
		return ctx.Err()
	case saidByTLS(err, inTLS):
		return unsuitable("TLS 1.3 with protocol "+Protocol+" and certificates of both sides", err.Error())
	}
	return err
}

// timedOut includes context.DeadlineExceeded.
func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// saidByTLS tells what crypto/tls found, here or at the other side, from what befell
// the stream below it. The former has types only in part.
func saidByTLS(err error, inTLS bool) bool {
	var op *net.OpError
	var alert tls.AlertError
	switch {
	case errors.As(err, &alert), errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		return true
	case op != nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe), errors.Is(err, net.ErrClosed):
		return false
	}
	return inTLS
}

// farewell is how long a side that refuses waits for the other to take the refusal.
const farewell = 2 * time.Second

// dismiss ends an exchange that failed. It tells the peer why it is refused, if it can
// still be told, and reads what the peer has under way meanwhile: closed too early, a
// TCP connection loses the refusal.
func (x *exchange) dismiss(ctx context.Context, c *tls.Conn, err error) {
	var no *RefusedError
	if x.said || x.broken || errors.As(err, &no) || ctx.Err() != nil {
		_ = c.NetConn().Close()
		_ = x.out.flush() // fails, if anything is left
		return
	}
	_ = c.SetDeadline(time.Now().Add(farewell))
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, io.LimitReader(c, 2*int64(x.cfg.MaxBundle)))
	}()
	x.out.send(refusal(told(explain(ctx, err, false))))
	err = x.out.flush()
	if err == nil {
		err = c.CloseWrite() // so that two sides that refuse do not wait for each other
	}
	if err != nil {
		_ = c.NetConn().Close()
	}
	<-drained
}
