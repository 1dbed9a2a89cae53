package daemon

import (
	"context"
	"time"

	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// standing is what a node goes by while its replica has not started, and others are
// already to be judged: it may have to join them first.
type standing struct {
	up     chan struct{}  // closed once the replica runs
	terms  admit.InForce  // for nodes, by the state as it was opened
	known  bool           // terms have been read
	newer  receipt.Roster // that other nodes handed over, with its chain
	number uint64         // of newer
}

// opened takes note of the terms for nodes whenever the state is opened.
func (n *Node) opened(v ledger.View) error {
	f, err := admit.TermsOf(founded{v, n}, admit.RoleNode)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.standing.terms, n.standing.known = f, err == nil
	return nil // without terms nobody passes: who asks for them is told
}

func (n *Node) isUp() bool {
	select {
	case <-n.standing.up:
		return true
	default:
		return false
	}
}

// inForce returns the terms in force for a role.
func (n *Node) inForce(role string) (f admit.InForce, err error) {
	if !n.isUp() && role == admit.RoleNode {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.standing.known {
			return n.standing.terms, nil
		}
	}
	err = n.view(func(v ledger.View) error {
		f, err = admit.TermsOf(founded{v, n}, role)
		return err
	})
	return f, err
}

// roster returns the roster by which others are known: the one in force as far as this
// node has applied the log, one that other nodes proved to be newer, or the founding
// one while there is none.
func (n *Node) roster() receipt.Roster {
	r, number, _ := n.machine.roster()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.standing.number > number:
		return n.standing.newer
	case len(r.Nodes) == 0:
		return n.genesis.Roster
	}
	return r
}

// learn asks the other nodes for the chain of rosters, which proves itself, until the
// replica runs: so this node knows whom it may join though its own chain is old.
func (n *Node) learn() {
	for n.running.Err() == nil && !n.isUp() {
		ctx, cancel := context.WithTimeout(n.running, 5*time.Second)
		v, err := n.show(ctx, n.file.Contacts)
		cancel()
		if err == nil {
			n.mu.Lock()
			for name, c := range v.Contacts {
				if name != n.name {
					n.contacts[name] = c
				}
			}
			n.standing.newer, n.standing.number = v.Roster, v.Sequence
			n.mu.Unlock()
			return
		}
		n.log.Debug("no newer roster was learned", "because", err)
		select {
		case <-n.standing.up:
		case <-n.running.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// show fetches the chain of rosters from another node and verifies it.
func (n *Node) show(ctx context.Context, contacts [][]byte) (*client.View, error) {
	file := &client.Domain{Genesis: n.file.Genesis}
	for _, s := range contacts {
		if c, err := client.OpenContact(s); err == nil && c.Name != n.name {
			file.Contacts = append(file.Contacts, s)
		}
	}
	cl, err := client.Open(file, n.cfg.Domain, client.Options{Certificate: &n.self.TLS, Attempt: time.Second})
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return cl.Show(ctx)
}

// leads reports whether a contact is that of a node of a roster. A node that has just
// started has another signing key than its contact; its machine is the same.
func leads(c *client.Contact, node receipt.Node) bool {
	return c.Node() == node || c.Name == node.Name && c.AK == node.AK && !node.AK.None()
}
