package node

import (
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// Members of the replica are nodes of the roster, which members of the domain signed. The
// replica's own record of them is signed by nobody, so every node refuses, alike, a change
// of it that the roster does not explain: who is added shows a contact by the key that the
// roster has, who is removed has left the roster or asks for a fresh id itself, and who is
// to vote is in the roster.

// explainedFrom is the entry version from which changes must be explained; nodes of earlier
// builds do not look.
const explainedFrom = 4

// memberName is what a member of the replica is known by: the node's name and machine, or
// its key where nodes show none.
func memberName(n receipt.Node) string {
	if n.AK.None() {
		return n.Name + " " + n.Key.String()
	}
	return n.Name + " " + n.AK.String()
}

// explain is replica.StoreOptions.Explain. It runs between two batches of Apply, and sees what
// all nodes see there.
func (x *machine) explain(state replica.View, before *replica.Membership, c *replica.Change) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.m.EntryVersion() < explainedFrom {
		return nil
	}
	roster, _ := x.m.Roster()
	return explainChange(&roster, before, c, func(key keystead.Digest) (bool, error) { return hasContact(ledger.NewView(state), &roster, key) })
}

// hasContact reports whether a contact on the ledger says that a key is that of a node of the
// roster. Members from before names were recorded are known by that alone, and whoever can write
// contacts can hide one.
func hasContact(v ledger.View, roster *receipt.Roster, key keystead.Digest) (has bool, err error) {
	err = v.Keys(contactContract+"/", func(_ string, value ledger.Value) bool {
		c, err := client.OpenContact(value.Data)
		node, in := roster.Node(c.Name)
		has = has || err == nil && in && c.TLS == key && leads(&c, node)
		return !has
	})
	return has, err
}

func explainChange(roster *receipt.Roster, before *replica.Membership, c *replica.Change, known func(keystead.Digest) (bool, error)) error {
	named := map[string]bool{}
	for _, n := range roster.Nodes {
		named[memberName(n)] = true
	}
	again := map[keystead.Digest]bool{}
	for _, id := range c.Remove {
		m, ok := before.ByID(id)
		if !ok {
			continue // the replica refuses that itself
		}
		rejoins, err := c.Rejoins(m)
		in := named[m.Name]
		if err == nil && m.Name == "" && !rejoins {
			in, err = known(m.Key)
		}
		switch {
		case err != nil:
			return err
		case rejoins:
			again[m.Key] = true
		case in:
			return unexplained("remove", "a member whose node has left the roster", m.Name)
		}
	}
	for i, add := range c.Add {
		if again[add.Key] {
			continue
		}
		if i >= len(c.Vouchers) {
			return unexplained("add", "the contact of a node of the roster", "none")
		}
		if err := vouched(roster, add, c.Vouchers[i]); err != nil {
			return err
		}
	}
	for _, id := range c.Promote {
		if m, ok := before.ByID(id); ok && m.Name != "" && !named[m.Name] {
			return unexplained("promote", "a member whose node is in the roster", m.Name)
		}
	}
	return nil
}

// vouched checks the contact by which a node is added: signed by the key that the roster has.
func vouched(roster *receipt.Roster, add replica.Member, signed []byte) error {
	c, err := client.OpenContact(signed)
	if err != nil {
		return unexplained("add", "the contact of a node of the roster", err.Error())
	}
	node, in := roster.Node(c.Name)
	if !in || c.Node() != node || c.TLS != add.Key || c.Peer != add.Address || add.Name != memberName(node) || !add.Voter {
		return unexplained("add", "the key and address of a node of the roster, in its contact", fmt.Sprintf("%s at %s, as %q", add.Key, add.Address, add.Name))
	}
	return nil
}

func unexplained(where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonChangeUnexplained, Where: "members, " + where, Want: want, Got: got})
}
