package client

import (
	"context"
	"errors"
	"slices"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/receipt"
)

// A View is a domain as the chain from its genesis shows it.
type View struct {
	Domain   keystead.Digest
	Genesis  receipt.Genesis
	Sequence uint64          // of the roster in force
	Entry    keystead.Digest // of the entry that made it
	Roster   receipt.Roster
	Before   []receipt.Roster   // that were in force before it, the founding one first
	Contacts map[string]Contact // by node name, of nodes in the roster
	File     *Domain            // to hand on: genesis and the contacts of now
}

// Show fetches the chain of rosters, verifies it from the genesis digest, and
// learns the nodes of now from it. That the chain is the newest is the word of
// the node that answered.
func (c *Client) Show(ctx context.Context) (*View, error) {
	var msg *apiv1.ShowResponse
	err := c.each(ctx, func(ctx context.Context, n *node) error {
		r, err := n.domain.Show(ctx, connect.NewRequest(&apiv1.ShowRequest{}))
		if err == nil {
			msg = r.Msg
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	v, err := verifyShow(c.domain, msg)
	if err != nil {
		return nil, err
	}
	if c.opts.Only == "" || len(c.all()) > 1 {
		c.connect(msg.GetContacts(), &v.Roster)
	}
	return v, nil
}

func verifyShow(domain keystead.Digest, msg *apiv1.ShowResponse) (*View, error) {
	chain := append([][]byte{msg.GetGenesis()}, msg.GetRosters()...)
	genesis, rosters, err := receipt.VerifyChain(chain, domain)
	if err != nil {
		return nil, err
	}
	last := len(chain) - 1
	v := &View{Domain: domain, Genesis: genesis, Sequence: uint64(last), Entry: keystead.Sum(chain[last]), Roster: rosters[last], Before: rosters[:last], Contacts: map[string]Contact{}}
	v.File = &Domain{Genesis: msg.GetGenesis()[receipt.HeaderSize:]}
	for _, signed := range msg.GetContacts() {
		contact, err := OpenContact(signed)
		if err != nil {
			continue // a node can not be blamed for what others hand it
		}
		if n, ok := v.Roster.Node(contact.Name); ok && n == contact.Node() {
			v.Contacts[contact.Name] = contact
			v.File.Contacts = append(v.File.Contacts, signed)
		}
	}
	return v, nil
}

// Submit hands in a roster change signed by members, with the contact of a node
// that it adds, or a proposal or endorsement. It answers once that took effect. A node
// judges a proposal once: if every node lacks an object for it, that is the answer.
func (c *Client) Submit(ctx context.Context, entry, contact []byte) (out *apiv1.SubmitResponse, err error) {
	return c.SubmitNode(ctx, entry, contact, nil)
}

// MaxShown bounds the evidence of a node that is added, in bytes: what is longer a node does not take
// in with the change.
const MaxShown = 1 << 20

// SubmitNode is Submit for a change that adds a node, with evidence of its machine in answer to the
// contact: the node that takes the change refuses a machine that nodes would not let in.
func (c *Client) SubmitNode(ctx context.Context, entry, contact, evidence []byte) (out *apiv1.SubmitResponse, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	lacking := map[string]bool{}
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		r, err := n.domain.Submit(ctx, connect.NewRequest(&apiv1.SubmitRequest{Entry: entry, Contact: contact, Evidence: evidence}))
		if err == nil {
			out = r.Msg
			return nil
		}
		err = refusal.Decode(err)
		if lacking[n.Name] = errors.Is(err, keystead.ReasonObjectMissing); everyNode(c.all(), lacking) {
			stop()
		}
		return err
	})
	return out, err
}

func everyNode(nodes []*node, of map[string]bool) bool {
	return !slices.ContainsFunc(nodes, func(n *node) bool { return !of[n.Name] })
}

// Checkpoint fetches the newest checkpoint that a majority signed, unverified.
func (c *Client) Checkpoint(ctx context.Context) (note []byte, err error) {
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		r, err := n.ledger.GetCheckpoint(ctx, connect.NewRequest(&apiv1.GetCheckpointRequest{}))
		if err == nil {
			note = r.Msg.GetNote()
		}
		return err
	})
	return note, err
}

// Consistency fetches the proof that the tree of a checkpoint is the start of the
// newest one's, and verifies it.
func (c *Client) Consistency(ctx context.Context, from []byte) (old, now receipt.TreeHead, err error) {
	var text []byte
	err = c.each(ctx, func(ctx context.Context, n *node) error {
		r, err := n.ledger.GetConsistency(ctx, connect.NewRequest(&apiv1.GetConsistencyRequest{From: from}))
		if err == nil {
			text = r.Msg.GetProof()
		}
		return err
	})
	if err != nil {
		return old, now, err
	}
	p, err := receipt.ParseConsistency(text)
	if err != nil {
		return old, now, err
	}
	return c.verifier.VerifyConsistency(p)
}
