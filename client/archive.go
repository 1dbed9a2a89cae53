package client

import (
	"context"
	"crypto/rand"
	"errors"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/receipt"
)

// maxRecord bounds an archived record, in bytes.
const maxRecord = 64<<20 + 4<<10

// Reading returns the text of a request for the archived evidence of an admission, for
// members to sign, good for as long from now.
func (c *Client) Reading(ctx context.Context, transaction keystead.Digest, milliseconds uint64, because string) ([]byte, error) {
	s, err := c.State(ctx, nil, []string{admit.TypeSetting + "/" + admit.ArchiveReaders})
	if err != nil {
		return nil, err
	}
	x := admit.Reading{Domain: c.domain, Transaction: transaction, Until: s.GetClockMs() + milliseconds, Because: because}
	_, _ = rand.Read(x.Nonce[:]) // never fails
	return x.Text()
}

// ReadArchive fetches the archived record of the admission at a leaf, from the first
// node that has it, by a reading that members signed. It is that node's word: a replay
// holds it to the ledger.
func (c *Client) ReadArchive(ctx context.Context, leaf uint64, reading []byte) ([]byte, error) {
	var errs []error
	for _, n := range c.all() {
		b, err := n.readArchive(ctx, leaf, reading)
		if err == nil {
			return b, nil
		}
		if errors.Is(err, keystead.ReasonRequestReplayed) || !Unavailable(err) && !errors.Is(err, keystead.ReasonArchiveAltered) && !errors.Is(err, keystead.ReasonSealUnopened) {
			return nil, err // the other nodes would say the same
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (n *node) readArchive(ctx context.Context, leaf uint64, reading []byte) ([]byte, error) {
	stream, err := n.host.ReadArchive(ctx, connect.NewRequest(&apiv1.ReadArchiveRequest{Leaf: leaf, Reading: reading}))
	if err != nil {
		return nil, refusal.Decode(err)
	}
	defer stream.Close()
	var b []byte
	for stream.Receive() && len(b) <= maxRecord {
		b = append(b, stream.Msg().GetChunk()...)
	}
	if err := stream.Err(); err != nil {
		return nil, refusal.Decode(err)
	}
	return b, nil
}

// FindLeaf looks for the leaf of a transaction, from the first on: it fetches the ledger
// up to there.
func (c *Client) FindLeaf(ctx context.Context, id keystead.Digest) (uint64, error) {
	note, err := c.Checkpoint(ctx)
	if err != nil {
		return 0, err
	}
	head, err := receipt.ParseCheckpoint(note)
	if err != nil {
		return 0, err
	}
	var leaf uint64
	found := false
	err = c.Tail(ctx, 0, head.Size, func(e *apiv1.Entry) bool {
		leaf, found = e.GetLeaf(), receipt.LeafHash(e.GetEntry()) == id
		return !found
	})
	if err == nil && !found {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonSubjectMismatch, Where: "ledger", Want: "a leaf with transaction id " + id.String(), Got: "none under the newest checkpoint"})
	}
	return leaf, err
}
