package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// MaxObject bounds an object, in bytes.
const MaxObject = 64 << 20

// maxChunk is how much of an object goes in one message, in bytes.
const maxChunk = 512 << 10

// PutObject hands an object to all nodes, for statements to name. It fails if a
// majority of the nodes that it knows did not take it.
func (c *Client) PutObject(ctx context.Context, content []byte) (keystead.Digest, error) {
	d := keystead.Sum(content)
	if len(content) > MaxObject {
		return d, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTooLarge, Where: "object", Want: fmt.Sprintf("at most %d bytes", MaxObject), Got: fmt.Sprintf("%d bytes", len(content))})
	}
	nodes := c.all()
	answers := make(chan error, len(nodes))
	for _, n := range nodes {
		go func() { answers <- n.putPatiently(ctx, d, content) }()
	}
	var errs []error
	for range nodes {
		if err := <-answers; err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs)*2 >= len(nodes) {
		return d, errors.Join(errs...)
	}
	return d, nil
}

// putTime is how long a node is asked again that has no room for an object, or takes no more
// of them a second.
const putTime = 10 * time.Second

func (n *node) putPatiently(ctx context.Context, d keystead.Digest, content []byte) error {
	end := time.Now().Add(putTime)
	for {
		err := n.putObject(ctx, d, content)
		if !errors.Is(err, keystead.ReasonOverloaded) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pauseMax / 2):
		}
	}
}

func (n *node) putObject(ctx context.Context, d keystead.Digest, content []byte) error {
	stream := n.host.PutObject(ctx)
	for chunk := range slices.Chunk(content, maxChunk) {
		if stream.Send(&apiv1.PutObjectRequest{Chunk: chunk}) != nil {
			break // the answer tells why
		}
	}
	r, err := stream.CloseAndReceive()
	if err != nil {
		return fmt.Errorf("node %s: %w", n.Name, refusal.Decode(err))
	}
	if got := r.Msg.GetDigest(); got != d.String() {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonObjectMismatch, Where: "node " + n.Name, Want: d.String(), Got: fmt.Sprintf("%.80q", got)})
	}
	return nil
}

// GetObject fetches an object from the first node that has it, and holds it to its
// digest.
func (c *Client) GetObject(ctx context.Context, d keystead.Digest) ([]byte, error) {
	var errs []error
	for _, n := range c.all() {
		b, err := n.getObject(ctx, d)
		if err == nil {
			return b, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (n *node) getObject(ctx context.Context, d keystead.Digest) ([]byte, error) {
	stream, err := n.host.GetObject(ctx, connect.NewRequest(&apiv1.GetObjectRequest{Digest: d.String()}))
	if err != nil {
		return nil, refusal.Decode(err)
	}
	defer stream.Close()
	var b []byte
	for stream.Receive() && len(b) <= MaxObject {
		b = append(b, stream.Msg().GetChunk()...)
	}
	if err := stream.Err(); err != nil {
		return nil, refusal.Decode(err)
	}
	if got := keystead.Sum(b); got != d {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonObjectMismatch, Where: "object from node " + n.Name, Want: d.String(), Got: got.String()})
	}
	return b, nil
}

// State reads judged keys and the versions of judged subjects (TYPE/SUBJECT),
// linearizably.
func (c *Client) State(ctx context.Context, keys, subjects []string) (out *apiv1.GetStateResponse, err error) {
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		r, err := n.host.GetState(ctx, connect.NewRequest(&apiv1.GetStateRequest{Keys: keys, Subjects: subjects}))
		switch {
		case err != nil:
			return err
		case len(r.Msg.GetValues()) != len(keys) || len(r.Msg.GetVersions()) != len(subjects):
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonMalformed, Where: "state from node " + n.Name, Want: "an answer to each question", Got: "fewer or more"})
		}
		out = r.Msg
		return nil
	})
	return out, err
}

// Wrote checks, by a receipt, what a node said stands under a judged key: the leaf before its version
// wrote it there. Whoever makes a statement out of what there is has to ask, or one node could have
// members sign what they took back long ago; that the version is still the one in force, the nodes
// see to when they judge the statement. Refused is with proof-invalid.
func (c *Client) Wrote(ctx context.Context, key string, value []byte, version uint64) error {
	wrong := func(want string) error {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonProofInvalid, Where: key, Want: want, Got: "a node's word for something else"})
	}
	if version == 0 {
		return wrong("a version that a leaf wrote")
	}
	_, proven, err := c.Receipt(ctx, version-1)
	if err != nil {
		return err
	}
	if proven.Kind == receipt.KindEffective {
		e, err := ledger.ParseEffective(proven.Entry)
		if err != nil {
			return err
		}
		for _, w := range e.Verdict.Writes {
			if w.Key == key && !w.Delete && bytes.Equal(w.Value, value) {
				return nil
			}
		}
	}
	return wrong(fmt.Sprintf("what leaf %d wrote", version-1))
}

// Hosts lists enrolments whose names start with the prefix, with their leases as
// the node that answers sees them, in the order of their names.
func (c *Client) Hosts(ctx context.Context, prefix string, yield func(*apiv1.Host) bool) error {
	after := ""
	for {
		var page *apiv1.ListHostsResponse
		err := c.each(ctx, func(ctx context.Context, n *node) error {
			r, err := n.host.ListHosts(ctx, connect.NewRequest(&apiv1.ListHostsRequest{Prefix: prefix, After: after}))
			if err == nil {
				page = r.Msg
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, h := range page.GetHosts() {
			if h.GetName() <= after || !yield(h) {
				return nil
			}
			after = h.GetName()
		}
		if !page.GetMore() || len(page.GetHosts()) == 0 {
			return nil
		}
	}
}
