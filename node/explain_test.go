package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// machineOf is a node of a test: its keys, its line in the roster, its contact.
type machineOf struct {
	sign    *key.Node
	tls     *replica.NodeKey
	node    receipt.Node
	contact []byte
	member  replica.Member
}

func makeMachine(t *testing.T, id uint64, name string) *machineOf {
	t.Helper()
	m := &machineOf{}
	var err error
	if m.sign, err = key.NewNode(rand.Reader); err == nil {
		m.tls, err = replica.GenerateNodeKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.node = receipt.Node{Name: name, Key: m.sign.Public(), AK: key.AKDigest(keystead.Sum([]byte(name)))}
	c := client.Contact{Name: name, Key: m.node.Key, AK: m.node.AK, TLS: m.tls.Digest(), Peer: "127.0.0.1:1", API: "https://127.0.0.1:2"}
	m.contact = c.Sign(m.sign)
	m.member = replica.Member{ID: id, Key: c.TLS, Address: c.Peer, Voter: true, Name: memberName(m.node)}
	return m
}

// TestMembershipIsExplained: a node proposes changes of the replica's members by itself. Only
// what the roster, or the member's own word, explains is applied.
func TestMembershipIsExplained(t *testing.T) {
	nodes := []*machineOf{makeMachine(t, 1, "n1"), makeMachine(t, 2, "n2"), makeMachine(t, 3, "n3")}
	roster := &receipt.Roster{}
	before := &replica.Membership{LastID: 4}
	for _, m := range nodes {
		roster.Nodes = append(roster.Nodes, m.node)
		before.Members = append(before.Members, m.member)
	}
	gone := makeMachine(t, 4, "n4") // its node has left the roster
	before.Members = append(before.Members, gone.member)
	added := makeMachine(t, 0, "n5")
	roster.Nodes = append(roster.Nodes, added.node)
	stranger := makeMachine(t, 0, "n6")
	liar := nodes[2]

	again := func(of *machineOf, gives uint64, by *machineOf, change func(*replica.Member)) *replica.Change {
		add := of.member
		add.ID, add.Boot = 0, [16]byte{7}
		asked, err := by.tls.Sign(replica.AskedMessage(gives, add.Key, add.Boot, add.Address))
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(&add)
		}
		return &replica.Change{Remove: []uint64{of.member.ID}, Add: []replica.Member{add}, Asked: asked}
	}
	of := func(m *machineOf, contact []byte, change func(*replica.Member)) *replica.Change {
		add := m.member
		if change != nil {
			change(&add)
		}
		return &replica.Change{Add: []replica.Member{add}, Vouchers: [][]byte{contact}}
	}
	posing := client.Contact{Name: "n1", Key: liar.node.Key, AK: nodes[0].node.AK, TLS: stranger.tls.Digest(), Peer: "127.0.0.1:1", API: "https://127.0.0.1:2"}
	for name, tc := range map[string]struct {
		change *replica.Change
		want   keystead.Reason
	}{
		"an honest node is removed":                      {&replica.Change{Remove: []uint64{1}}, keystead.ReasonChangeUnexplained},
		"one that left, and an honest one with it":       {&replica.Change{Remove: []uint64{4, 2}}, keystead.ReasonChangeUnexplained},
		"an honest node is given another id, unasked":    {&replica.Change{Remove: []uint64{1}, Add: []replica.Member{nodes[0].member}}, keystead.ReasonChangeRefused},
		"by the liar's word":                             {again(nodes[0], 1, liar, nil), keystead.ReasonChangeRefused},
		"by the member's word for an id of before":       {again(nodes[0], 9, nodes[0], nil), keystead.ReasonChangeRefused},
		"by its word, to another address":                {again(nodes[0], 1, nodes[0], func(m *replica.Member) { m.Address = "127.0.0.9:9" }), keystead.ReasonChangeRefused},
		"by its word, as another node":                   {again(nodes[0], 1, nodes[0], func(m *replica.Member) { m.Name = liar.member.Name }), keystead.ReasonChangeRefused},
		"a stranger is added":                            {of(stranger, stranger.contact, nil), keystead.ReasonChangeUnexplained},
		"a stranger is added without a contact":          {&replica.Change{Add: []replica.Member{stranger.member}}, keystead.ReasonChangeUnexplained},
		"a stranger is added by a node's contact":        {of(stranger, added.contact, nil), keystead.ReasonChangeUnexplained},
		"a key under an honest name, signed by the liar": {of(stranger, posing.Sign(liar.sign), func(m *replica.Member) { m.Name = nodes[0].member.Name }), keystead.ReasonChangeUnexplained},
		"a node is added elsewhere than it is":           {of(added, added.contact, func(m *replica.Member) { m.Address = "127.0.0.9:9" }), keystead.ReasonChangeUnexplained},
		"who left is to vote":                            {&replica.Change{Promote: []uint64{4}}, keystead.ReasonChangeUnexplained},
		"a node is added":                                {of(added, added.contact, nil), ""},
		"a node that left is removed":                    {&replica.Change{Remove: []uint64{4}}, ""},
		"a node gives up its id":                         {again(nodes[0], 1, nodes[0], nil), ""},
		"a node is to vote":                              {&replica.Change{Promote: []uint64{1}}, ""},
	} {
		none := func(keystead.Digest) (bool, error) {
			return false, errors.New("nobody here is known by a contact alone")
		}
		err := explainChange(roster, before, tc.change, none)
		if (tc.want == "") != (err == nil) || tc.want != "" && !errors.Is(err, tc.want) {
			t.Errorf("%s: want %q, got %v", name, tc.want, err)
		}
	}

	old := nodes[0].member // from before names were recorded
	old.Name = ""
	before.Members[0] = old
	for _, known := range []bool{true, false} {
		err := explainChange(roster, before, &replica.Change{Remove: []uint64{1}}, func(k keystead.Digest) (bool, error) { return known && k == old.Key, nil })
		if known != errors.Is(err, keystead.ReasonChangeUnexplained) {
			t.Errorf("a member known by a contact (%v): %v", known, err)
		}
	}
}

// TestMemberNamesTellMachines: a name in the replica is a name and a machine, so that another
// machine under the name is another member.
func TestMemberNamesTellMachines(t *testing.T) {
	a := makeMachine(t, 1, "n1").node
	other := a
	other.AK = key.AKDigest(keystead.Sum([]byte("another machine")))
	rekeyed := a
	rekeyed.Key[0] ^= 1
	plain, plainRekeyed := a, rekeyed
	plain.AK, plainRekeyed.AK = key.AKDigest{}, key.AKDigest{}
	names := []string{memberName(a), memberName(other), memberName(plain), memberName(plainRekeyed)}
	slices.Sort(names)
	if memberName(a) != memberName(rekeyed) || len(slices.Compact(names)) != 4 {
		t.Error(fmt.Sprint(names, memberName(rekeyed)))
	}
}
