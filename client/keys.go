package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
)

// ListKeys returns what the domain knows of the agreed keys whose names start with
// prefix, in the order of names.
func (c *Client) ListKeys(ctx context.Context, prefix string) (out *apiv1.ListKeysResponse, err error) {
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		r, err := n.host.ListKeys(ctx, connect.NewRequest(&apiv1.ListKeysRequest{Prefix: prefix}))
		if err == nil {
			out = r.Msg
		}
		return err
	})
	return out, err
}

// Key returns what the domain knows of one key; nil if members specified none of that
// name.
func (c *Client) Key(ctx context.Context, name string) (*apiv1.Key, error) {
	list, err := c.ListKeys(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, k := range list.GetKeys() {
		if k.GetName() == name {
			return k, nil
		}
	}
	return nil, nil
}

// Specify hands in the specification of a key that members signed (keyring.Spec), and
// answers once it took effect.
func (c *Client) Specify(ctx context.Context, signed []byte) (*apiv1.SubmitResponse, error) {
	text, _, err := key.Peek(signed)
	if err != nil {
		return nil, err
	}
	s, err := keyring.ParseSpec(text)
	if err != nil {
		return nil, err
	}
	p := ledger.Proposal{Type: keyring.KeyspecType, Subject: s.Name, Base: s.Base, Content: signed}
	_, _ = rand.Read(p.ID[:]) // never fails
	entry, err := p.Entry()
	if err != nil {
		return nil, err
	}
	return c.Submit(ctx, entry, nil)
}

// AwaitKey waits until nodes have agreed on that version of a key, or a newer one.
func (c *Client) AwaitKey(ctx context.Context, name string, version uint64) (*apiv1.Key, error) {
	for {
		k, err := c.Key(ctx, name)
		if err != nil && !Unavailable(err) {
			return nil, err
		}
		if k.GetVersion() >= version {
			return k, nil
		}
		select {
		case <-ctx.Done():
			return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonTimeout, Where: "key " + name,
				Want: fmt.Sprintf("version %d, agreed by the nodes", version), Got: fmt.Sprintf("version %d so far", k.GetVersion())})
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ReleaseKey asks for a key. A node answers it on an attested connection of the host
// that asks.
func (c *Client) ReleaseKey(ctx context.Context, r *apiv1.ReleaseRequest) (out *apiv1.ReleaseResponse, err error) {
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		a, err := n.host.Release(ctx, connect.NewRequest(r))
		if err == nil {
			out = a.Msg
		}
		return err
	})
	return out, err
}
