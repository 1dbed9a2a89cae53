package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

type replicaView = replica.View

// memberEvery is how often the leader compares the replica's members with the roster.
const memberEvery = 500 * time.Millisecond

// membership has the replica's members follow the roster.
type membership struct {
	*guard
	changed <-chan struct{} // the roster has
}

// introduce publishes the contact of a node that a roster change adds, once judge has nothing against
// it. Judge is asked about changes that enough members signed alone.
func (n *membership) introduce(ctx context.Context, entry, contact []byte, judge func() error) error {
	c, err := client.OpenContact(contact)
	if err != nil {
		return err
	}
	change, err := receipt.ParseChange(entry)
	if err != nil {
		return err
	}
	if added, ok := change.Roster.Node(c.Name); !ok || added != c.Node() {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "contact", Want: "name, key and attestation key of a node in the roster handed in", Got: fmt.Sprintf("%s %s %s", c.Name, c.Key, c.AK)})
	}
	chain, err := n.chain()
	if err != nil {
		return err
	}
	roster, sequence, _ := n.machine.roster()
	if _, err := n.genesis.VerifyChange(entry, n.cfg.Domain, sequence+1, keystead.Sum(chain[len(chain)-1]), &roster); err != nil {
		return err
	}
	if err := judge(); err != nil {
		return err
	}
	return n.publish(ctx, contact)
}

// chain returns the genesis entry and the roster entries after it.
func (n *core) chain() (chain [][]byte, err error) {
	roster, sequence, _ := n.machine.roster()
	if len(roster.Nodes) == 0 {
		return nil, notBegun()
	}
	err = n.view(func(v ledger.View) error {
		chain, err = v.Chain(sequence)
		return err
	})
	return chain, err
}

// Chain implements serve.Domain.
func (n *membership) Chain(context.Context) (entries, contacts [][]byte, err error) {
	if entries, err = n.chain(); err != nil {
		return nil, nil, err
	}
	contacts, err = n.readContacts()
	return entries, contacts, err
}

// leaveAfter is how long a node that members removed stays, to hand over.
const leaveAfter = 2 * time.Second

// askAfter is how long a node is without a leader before it asks the others whether
// members removed it: who is removed is not told the end of it.
const askAfter = 3 * time.Second

// memberLoop lets the replica's members follow the roster, as leader, and stops the
// node once it has left the roster that it was in.
func (n *membership) memberLoop() {
	every := time.NewTicker(memberEvery)
	defer every.Stop()
	var lastIn time.Time
	lastLed, told := time.Now(), ""
	for {
		select {
		case <-every.C:
		case <-n.changed: // the roster
		case <-n.running.Done():
			return
		}
		roster, sequence, _ := n.machine.roster()
		switch {
		case n.belongs(&roster):
			lastIn = time.Now()
		case !lastIn.IsZero() && time.Since(lastIn) > leaveAfter:
			n.leave(sequence)
			return
		}
		n.meet(&roster)
		s := n.replica.Status()
		if s.Leader != 0 {
			lastLed = time.Now()
		} else if time.Since(lastLed) > askAfter {
			if newer, out := n.askAround(sequence); out {
				n.leave(newer)
				return
			}
			lastLed = time.Now()
		}
		if s.Leader != s.ID || s.Members == nil || s.Members.Joint() {
			continue
		}
		err := n.followRoster()
		switch {
		case err == nil:
			told = ""
		case err.Error() != told: // what goes on and on is told once
			told = err.Error()
			n.log.Warn("members do not follow the roster yet", "because", err)
		}
	}
}

// meet reads contacts once the roster names a node that this one can not reach yet.
func (n *directory) meet(roster *receipt.Roster) {
	for _, node := range roster.Nodes {
		if n.pinOf(node.Name).IsZero() {
			if _, err := n.readContacts(); err != nil {
				n.log.Debug("contacts not read", "because", err)
			}
			return
		}
	}
}

// askAround learns from another node what this one may have missed, and reports
// whether a roster after that sequence is without this node.
func (n *directory) askAround(sequence uint64) (newer uint64, out bool) {
	signed, err := n.readContacts()
	if err != nil {
		return 0, false
	}
	if err := n.learnOnce(slices.Concat(n.file.Contacts, signed)); err != nil {
		n.log.Debug("nothing newer was learned", "because", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.standing.number, n.standing.number > sequence && !n.belongs(&n.standing.newer)
}

// belongs reports whether a roster names this node: its machine, if it has one, for its
// signing key may have to be brought in first.
func (n *directory) belongs(r *receipt.Roster) bool {
	node, in := r.Node(n.name)
	return in && leads(&n.own, node)
}

// RemovedError says that a roster which members signed is without this node.
type RemovedError struct{ *keystead.DenyError }

// Unwrap returns the refusal.
func (e *RemovedError) Unwrap() error { return e.DenyError }

// outOf says that a roster is without this node.
func (n *directory) outOf(sequence uint64) error {
	return &RemovedError{keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: fmt.Sprintf("roster %d", sequence), Want: "this node, " + n.name, Got: "a roster without it"})}
}

// leave stops the replica of a node that is in the roster no more.
func (n *directory) leave(sequence uint64) {
	n.mu.Lock()
	n.left = n.outOf(sequence)
	n.mu.Unlock()
	if err := n.replica.Close(); err != nil {
		n.log.Warn("left the domain", "because", err)
	}
}

// followRoster removes the members whose node has left the roster and adds nodes
// of the roster that are no members. A member that no contact names stays.
func (n *membership) followRoster() error {
	signed, err := n.readContacts()
	if err != nil {
		return err
	}
	roster, _, _ := n.machine.roster()
	if len(roster.Nodes) == 0 {
		return nil
	}
	members := n.replica.Status().Members
	var change replica.Change
	for _, m := range members.Members {
		if n.hasLeft(&roster, m) {
			change.Remove = append(change.Remove, m.ID)
		}
	}
	for _, contact := range slices.Concat(n.file.Contacts, signed) {
		c, err := client.OpenContact(contact)
		if err != nil {
			continue
		}
		node, in := roster.Node(c.Name)
		if _, member := members.ByKey(c.TLS); !in || c.Node() != node || member || slices.ContainsFunc(change.Add, func(m replica.Member) bool { return m.Key == c.TLS }) {
			continue
		}
		add := replica.Member{Key: c.TLS, Address: c.Peer, Voter: true}
		if n.machine.entryVersion() >= explainedFrom {
			add.Name, change.Vouchers = memberName(node), append(change.Vouchers, contact)
		}
		change.Add = append(change.Add, add)
	}
	if len(change.Add)+len(change.Remove) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(n.running, 10*time.Second)
	defer cancel()
	if s := n.replica.Status(); slices.Contains(change.Remove, s.ID) {
		n.handOver() // let another remove this node
		return errors.New("this node has left the roster; another takes over")
	}
	if _, err = n.replica.Change(ctx, change); err == nil {
		n.log.Info("members follow the roster", "added", len(change.Add), "removed", len(change.Remove))
	}
	return err
}

// hasLeft reports whether the node of a member has left the roster.
func (n *directory) hasLeft(roster *receipt.Roster, m replica.Member) bool {
	if m.Name != "" {
		return !slices.ContainsFunc(roster.Nodes, func(node receipt.Node) bool { return memberName(node) == m.Name })
	}
	name := n.nameOf(m.Key)
	_, in := roster.Node(name)
	return name != "" && !in
}
