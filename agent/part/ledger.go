package part

import (
	"context"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/receipt"
)

// A Ledger is read for a part.
type Ledger interface {
	// Domain returns what this host knows of its domain: with fresh, as of the last seconds, else
	// what evidence was shown to last.
	Domain(ctx context.Context, fresh bool) (Domain, error)
	// Read returns the values of keys, in their order; nil of one that has none. A node says so.
	Read(ctx context.Context, keys ...string) ([][]byte, error)
	// Terms returns the text of the terms for hosts that are in force, nil if there are none.
	Terms(context.Context) ([]byte, error)
	// Object returns an object, held to its digest.
	Object(context.Context, keystead.Digest) ([]byte, error)
	// Denied reports of each subject whether members have it on the deny list.
	Denied(ctx context.Context, subjects ...string) ([]bool, error)
}

// Domain is what is proven of a domain from its genesis digest on.
type Domain struct {
	Digest keystead.Digest // of the genesis entry
	Name   string
	Nodes  []receipt.Node // of the roster
}
