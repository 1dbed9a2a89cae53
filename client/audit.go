package client

import (
	"bytes"
	"context"
	"time"

	"connectrpc.com/connect"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/receipt"
)

// An Audit is a ledger that was read whole and found to be what was signed.
type Audit struct {
	Checkpoint []byte
	Head       receipt.TreeHead
}

// Audit fetches every leaf under the newest checkpoint and computes the tree's
// root, which must be the one that a majority signed. If old is an older
// checkpoint, its root must be that of the same tree when it had its size. No more
// is read than the checkpoint covers, whose signatures are verified first.
func (c *Client) Audit(ctx context.Context, old []byte) (*Audit, error) {
	note, head, err := c.newest(ctx)
	var before receipt.TreeHead
	if err == nil && old != nil {
		before, err = c.verifier.VerifyCheckpoint(nil, old)
	}
	for err == nil && before.Size > head.Size && c.pause(ctx) { // a node that lags answered, unless the ledger was cut
		note, head, err = c.newest(ctx)
	}
	if err == nil && before.Size > head.Size {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonProofInvalid, Where: "ledger", Want: "at least the leaves of the older checkpoint", Got: "fewer"})
	}
	if err != nil {
		return nil, err
	}
	var chain [][]byte
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	grow := func(e *apiv1.Entry) error {
		leaf := receipt.LeafHash(e.GetEntry())
		if kind, _, err := receipt.Split(e.GetEntry()); err == nil && (kind == receipt.KindGenesis || kind == receipt.KindRoster) {
			chain = append(chain, e.GetEntry())
		}
		if err := tree.Append(leaf[:], nil); err != nil {
			return err
		}
		if before.Size == tree.End() {
			return sameRoot(tree, before)
		}
		return nil
	}
	var failed error
	err = c.Tail(ctx, 0, head.Size, func(e *apiv1.Entry) bool {
		failed = grow(e)
		return failed == nil
	})
	if failed != nil || err != nil {
		return nil, first(failed, err)
	}
	if _, err = c.verifier.VerifyCheckpoint(chain, note); err == nil {
		err = sameRoot(tree, head)
	}
	if err != nil {
		return nil, err
	}
	return &Audit{note, head}, nil
}

// newest fetches a node's newest checkpoint, and verifies it by the chain of rosters
// that the node shows.
func (c *Client) newest(ctx context.Context) (note []byte, head receipt.TreeHead, err error) {
	var chain [][]byte
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		r, err := n.ledger.GetCheckpoint(ctx, connect.NewRequest(&apiv1.GetCheckpointRequest{}))
		if err != nil {
			return err
		}
		s, err := n.domain.Show(ctx, connect.NewRequest(&apiv1.ShowRequest{})) // after it, so that it reaches the checkpoint's roster
		if err != nil {
			return err
		}
		note, chain = r.Msg.GetNote(), append([][]byte{s.Msg.GetGenesis()}, s.Msg.GetRosters()...)
		return nil
	})
	if err == nil {
		head, err = c.verifier.VerifyCheckpoint(chain, note)
	}
	return note, head, err
}

// pause passes over the node that answered, and waits a moment; false if ctx ends.
func (c *Client) pause(ctx context.Context) bool {
	_, at := c.current()
	c.next(at)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pauseMax):
		return true
	}
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// sameRoot checks that the leaves so far have the root of the head.
func sameRoot(tree *compact.Range, head receipt.TreeHead) error {
	root, err := tree.GetRootHash(nil)
	if err == nil && !bytes.Equal(root, head.Root[:]) {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonProofInvalid, Where: "ledger", Want: "leaves with the root " + head.Root.String(), Got: keystead.Digest(root).String()})
	}
	return err
}
