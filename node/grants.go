package node

import (
	"context"
	"crypto"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
)

// grants are what this node gives applications of hosts.
type grants struct {
	leases
	node *Node
}

var _ part.Grants = grants{}

// Release implements part.Grants.
func (g grants) Release(v ledger.View, ask *keyring.Ask, clock uint64) (keyring.Grant, error) {
	return g.node.releasing.grant(v, ask, clock)
}

// Issue implements part.Grants.
func (g grants) Issue(v ledger.View, lease admit.Lease, path string, public crypto.PublicKey) (part.SVID, error) {
	return g.node.svids.issue(v, lease, path, public)
}

// Knows implements part.Grants.
func (g grants) Knows(ctx context.Context) (func(file keystead.Digest, clock uint64) bool, error) {
	rules, err := g.rules(ctx, admit.RoleHost)
	if err != nil {
		return nil, err
	}
	return func(file keystead.Digest, clock uint64) bool { return rules.Knows(file, time.UnixMilli(int64(clock))) }, nil
}
