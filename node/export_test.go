package node

import (
	"context"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/replica"
)

// LieInMessages has a node's messages of raft go through a transport of its own.
func (o *Options) LieInMessages(t func(replica.Transport) replica.Transport) { o.lies.transport = t }

// ProposeMembers has a node propose a change of the replica's members by itself.
func (n *Node) ProposeMembers(ctx context.Context, c replica.Change) error {
	_, err := n.replica.Change(ctx, c)
	return err
}

// LieOfHead has a node say of itself what it likes, to whom it likes.
func (o *Options) LieOfHead(f func(to string, s heads.Statement, sign *key.Node) heads.Statement) {
	o.lies.head = f
}

// LieOfState has a node say of its state what it likes.
func (o *Options) LieOfState(f func(*ledger.StateDigest)) { o.lies.state = f }

// LieOfVerdicts has a node judge as it likes.
func (o *Options) LieOfVerdicts(by []part.JudgedType) { o.judges = by }

// LieOfLeases has a node release keys to whom a test takes for a host with a lease.
func (o *Options) LieOfLeases(f func(host string) (keyring.Lease, evidence.Claims)) { o.leased = f }
