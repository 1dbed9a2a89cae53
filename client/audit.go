package client

import (
	"bytes"
	"context"

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
// checkpoint, its root must be that of the same tree when it had its size.
func (c *Client) Audit(ctx context.Context, old []byte) (*Audit, error) {
	note, err := c.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	claimed, err := receipt.ParseCheckpoint(note)
	if err != nil {
		return nil, err
	}
	var before receipt.TreeHead
	if old != nil {
		if before, err = receipt.ParseCheckpoint(old); err != nil {
			return nil, err
		}
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
	err = c.Tail(ctx, 0, claimed.Size, func(e *apiv1.Entry) bool {
		failed = grow(e)
		return failed == nil
	})
	if failed != nil || err != nil {
		return nil, first(failed, err)
	}
	head, err := c.verifier.VerifyCheckpoint(chain, note)
	if err == nil && old != nil {
		_, err = c.verifier.VerifyCheckpoint(nil, old)
	}
	if err == nil {
		err = sameRoot(tree, head)
	}
	if err == nil && before.Size > head.Size {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonProofInvalid, Where: "ledger", Want: "at least the leaves of the older checkpoint", Got: "fewer"})
	}
	if err != nil {
		return nil, err
	}
	return &Audit{note, head}, nil
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
