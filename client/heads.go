package client

import (
	"context"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/ledger/heads"
	"github.com/keystead/keystead/receipt"
)

// A Stand is where one node says, by its signature, that it stood at a size of the tree.
type Stand struct {
	Node string
	Head receipt.TreeHead // that it signed; zero if it did not
	Err  error            // why it did not: it can not be reached, or its tree has not grown so far
}

// Stands asks every node that it can reach for its signature over the tree at the size of a
// head, and compares. It refuses with ledger-forked if one signed another tree or roster: a
// majority's signatures say what is so only while the nodes have one log. Nodes that give no
// answer in time are listed with the reason, and are none against it.
func (c *Client) Stands(ctx context.Context, head receipt.TreeHead) ([]Stand, error) {
	v, err := c.Show(ctx)
	if err != nil {
		return nil, err
	}
	nodes := c.all()
	out := make([]Stand, len(nodes))
	var wait sync.WaitGroup
	for i, n := range nodes {
		wait.Go(func() {
			out[i] = Stand{Node: n.Name}
			out[i].Head, out[i].Err = c.stand(ctx, n, v, head)
		})
	}
	wait.Wait()
	slices.SortFunc(out, func(a, b Stand) int { return strings.Compare(a.Node, b.Node) })
	var apart []keystead.Finding
	for _, s := range out {
		if s.Err == nil && s.Head != head {
			apart = append(apart, keystead.Finding{Reason: keystead.ReasonLedgerForked, Where: "node " + s.Node, Want: describe(head), Got: describe(s.Head)})
		}
	}
	if len(apart) > 0 {
		return out, keystead.Deny(apart...)
	}
	return out, nil
}

func describe(h receipt.TreeHead) string {
	text := strings.Fields(string(h.Text()))
	return "tree " + strings.Join(text[1:], " ")
}

// stand asks one node for its signed head at the size of another.
func (c *Client) stand(ctx context.Context, n *node, v *View, head receipt.TreeHead) (receipt.TreeHead, error) {
	member, ok := v.Roster.Node(n.Name)
	if !ok {
		return receipt.TreeHead{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "node " + n.Name, Want: "a node of the roster", Got: "one that left"})
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Attempt)
	defer cancel()
	r, err := n.domain.GetHead(ctx, connect.NewRequest(&apiv1.GetHeadRequest{Size: head.Size}))
	if err != nil {
		return receipt.TreeHead{}, refusal.Decode(err)
	}
	s, err := heads.Parse(r.Msg.GetStatement())
	switch {
	case err != nil:
		return receipt.TreeHead{}, err
	case s.Node != n.Name || s.Tree.Size != head.Size || !s.Verify(member.Key, c.domain):
		return receipt.TreeHead{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonSignatureInvalid, Where: "head of node " + n.Name,
			Want: "a statement of that size by " + member.Key.String(), Got: "another"})
	}
	return s.Tree, nil
}
