package part

import (
	"context"

	"github.com/keystead/keystead"
)

// A Class is what a caller is known as before a byte of HTTP is read.
type Class int

// Classes, each with connections, memory and places of its own: what one of them takes is
// not missing to another.
const (
	ClassStranger Class = iota // shows no key that this node knows
	ClassClient                // shows a key of api.clients
	ClassHost                  // is a machine that members enrolled: by its evidence, or by the TLS key of its last lease
	ClassNode                  // is a node of the domain
	Classes       = iota
)

// String returns the class's name, in the plural.
func (c Class) String() string { return [Classes]string{"strangers", "clients", "hosts", "nodes"}[c] }

// A Caller is who is at the other end of a connection, as far as the connection itself
// shows: by evidence, or in a domain without evidence by a node's pinned TLS key. The zero
// Caller is anybody. That somebody is a member no connection shows: members sign what they
// hand in.
type Caller struct {
	Node string          // name of a node of the domain
	EK   keystead.Digest // hardware identity that evidence showed; zero if none was
	TLS  keystead.Digest // of the public key that was shown in TLS; zero if none was
	Key  Class           // as what that key alone is known
}

// Class returns as what the caller is treated.
func (c Caller) Class() Class {
	switch {
	case c.Node != "":
		return ClassNode
	case !c.EK.IsZero():
		return ClassHost
	}
	return c.Key
}

type callerKey struct{}

// WithCaller returns the context of a connection's requests; caller is asked once a request.
func WithCaller(ctx context.Context, caller func() Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, caller)
}

// CallerOf returns who sent the request of this context.
func CallerOf(ctx context.Context) Caller {
	if caller, ok := ctx.Value(callerKey{}).(func() Caller); ok {
		return caller()
	}
	return Caller{}
}

type budgetKey struct{}

// WithBudget returns the context of a request whose answer is paid for by spend.
func WithBudget(ctx context.Context, spend func(bytes int) error) context.Context {
	return context.WithValue(ctx, budgetKey{}, spend)
}

// Spend is called before so many bytes are added to the answer of a call. Refusals:
// too-large, where the answer would be longer than the procedure's may be; overloaded, where
// the caller's class has no memory for it now.
func Spend(ctx context.Context, bytes int) error {
	if spend, ok := ctx.Value(budgetKey{}).(func(int) error); ok {
		return spend(bytes)
	}
	return nil // of this node itself
}
