package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// answering is another node that answers what it likes about its state.
type answering struct {
	apiv1connect.NodeServiceClient
	say func(position uint64) (*apiv1.GetStateDigestResponse, error)
}

func (a answering) GetStateDigest(_ context.Context, r *connect.Request[apiv1.GetStateDigestRequest]) (*connect.Response[apiv1.GetStateDigestResponse], error) {
	res, err := a.say(r.Msg.GetPosition())
	return connect.NewResponse(res), err
}

func source(seed uint64) io.Reader {
	var s [32]byte
	s[0] = byte(seed)
	return rand.NewChaCha8(s)
}

func nodeKey(t *testing.T, seed uint64) *key.Node {
	t.Helper()
	k, err := key.NewNode(source(seed))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestVoucherSigns: what a node says of a state counts if it signed that very digest, for
// this domain, by the key that it has today.
func TestVoucherSigns(t *testing.T) {
	domain := keystead.Sum([]byte("domain"))
	today, yesterday, other := nodeKey(t, 1), nodeKey(t, 2), nodeKey(t, 3)
	roster := receipt.Roster{Nodes: []receipt.Node{{Name: "a", Key: today.Public()}, {Name: "b", Key: other.Public()}}}
	want := ledger.StateDigest{Position: 7, Digest: keystead.Sum([]byte("state")), Bytes: 9, Chain: keystead.Sum([]byte("log"))}
	n := &newNode(Config{Domain: domain}, Options{}).states
	n.name = "c"
	for name, tc := range map[string]struct {
		answer func() (*apiv1.GetStateDigestResponse, error)
		signed bool
		words  string
	}{
		"the same":       {func() (*apiv1.GetStateDigestResponse, error) { return entryOf(want.Sign(today, "a", domain)), nil }, true, "the same"},
		"yesterday's":    {func() (*apiv1.GetStateDigestResponse, error) { return entryOf(want.Sign(yesterday, "a", domain)), nil }, false, "signature-invalid"},
		"another's name": {func() (*apiv1.GetStateDigestResponse, error) { return entryOf(want.Sign(other, "b", domain)), nil }, false, "signer-unknown"},
		"another's key":  {func() (*apiv1.GetStateDigestResponse, error) { return entryOf(want.Sign(other, "a", domain)), nil }, false, "signature-invalid"},
		"another domain": {func() (*apiv1.GetStateDigestResponse, error) {
			return entryOf(want.Sign(today, "a", keystead.Sum([]byte("other")))), nil
		}, false, "signature-invalid"},
		"another position": {func() (*apiv1.GetStateDigestResponse, error) {
			s := want
			s.Position = 6
			return entryOf(s.Sign(today, "a", domain)), nil
		}, false, "digest "},
		"another log": {func() (*apiv1.GetStateDigestResponse, error) {
			s := want
			s.Chain[0] ^= 1
			return entryOf(s.Sign(today, "a", domain)), nil
		}, false, "digest "},
		"other bytes": {func() (*apiv1.GetStateDigestResponse, error) {
			s := want
			s.Bytes++
			return entryOf(s.Sign(today, "a", domain)), nil
		}, false, "digest "},
		"nothing": {func() (*apiv1.GetStateDigestResponse, error) { return &apiv1.GetStateDigestResponse{}, nil }, false, "no digest"},
		"no node": {func() (*apiv1.GetStateDigestResponse, error) { return nil, errors.New("cut off") }, false, "cut off"},
		"garbage": {func() (*apiv1.GetStateDigestResponse, error) {
			return &apiv1.GetStateDigestResponse{Digest: []byte{4, 15, 2}}, nil
		}, false, "position"},
		"stateless and signing": {func() (*apiv1.GetStateDigestResponse, error) {
			r := entryOf(want.Sign(yesterday, "a", domain))
			r.Stateless = true
			return r, nil
		}, false, "signature-invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &peer{Contact: client.Contact{Name: "a"}, nodes: answering{say: func(uint64) (*apiv1.GetStateDigestResponse, error) { return tc.answer() }}}
			v := n.askOne(t.Context(), p, &roster, &want)
			if v.signed != tc.signed || v.stateless || !strings.Contains(v.words, tc.words) {
				t.Errorf("want signed %v, %q, got %+v", tc.signed, tc.words, v)
			}
		})
	}
}

func entryOf(s ledger.StateDigest) *apiv1.GetStateDigestResponse {
	return &apiv1.GetStateDigestResponse{Digest: s.Entry()}
}

// TestWhoVouches: a majority of a roster, by name; without those that have never had a
// state only if every other one was asked.
func TestWhoVouches(t *testing.T) {
	roster := func(names ...string) *receipt.Roster {
		r := &receipt.Roster{}
		for _, n := range names {
			r.Nodes = append(r.Nodes, receipt.Node{Name: n})
		}
		return r
	}
	yes, no, fresh, settled := voucher{signed: true}, voucher{}, voucher{stateless: true}, voucher{settled: true}
	for name, tc := range map[string]struct {
		roster *receipt.Roster
		fresh  bool // this node, c
		by     map[string]voucher
		enough bool
	}{
		"two of three":                   {roster("a", "b", "c"), false, map[string]voucher{"a": yes, "b": yes}, true},
		"one of three":                   {roster("a", "b", "c"), false, map[string]voucher{"a": yes, "b": no}, false},
		"a minority of five":             {roster("a", "b", "c", "d", "e"), false, map[string]voucher{"a": yes, "b": yes, "d": settled, "e": settled}, false},
		"nodes of before":                {roster("c", "d", "e"), false, map[string]voucher{"a": yes, "b": yes}, false},
		"its disk is lost":               {roster("a", "c"), false, map[string]voucher{"a": yes}, false},
		"it is new":                      {roster("a", "c"), true, map[string]voucher{"a": yes}, true},
		"two are new":                    {roster("a", "b", "c"), true, map[string]voucher{"a": yes, "b": fresh}, true},
		"it is new, and one is silent":   {roster("a", "b", "c"), true, map[string]voucher{"a": yes, "b": no}, false},
		"it is new, and one says else":   {roster("a", "b", "c"), true, map[string]voucher{"a": yes, "b": settled}, false},
		"it is not, and another is":      {roster("a", "b", "c"), false, map[string]voucher{"a": yes, "b": fresh}, false},
		"nobody has a state":             {roster("a", "b", "c"), true, map[string]voucher{"a": fresh, "b": fresh}, false},
		"a fourth is new":                {roster("a", "b", "c", "d"), true, map[string]voucher{"a": yes, "b": yes, "d": settled}, true},
		"a fourth is new, and is silent": {roster("a", "b", "c", "d"), true, map[string]voucher{"a": yes, "b": yes}, false},
	} {
		vouches(t, name, nil, tc.fresh, tc.roster, tc.by, tc.enough)
	}
	founders := roster("a", "b", "c")
	vouches(t, "a founder that lost its disk", founders, true, roster("a", "c"), map[string]voucher{"a": yes}, false)
	vouches(t, "two founders that did", founders, true, roster("a", "b", "c"), map[string]voucher{"a": yes, "b": fresh}, false)
	vouches(t, "a founder that did, and a new node", founders, true, roster("a", "b", "d"), map[string]voucher{"a": yes, "d": fresh}, false)
	for i := range founders.Nodes {
		founders.Nodes[i].Key[0] ^= 1
	}
	vouches(t, "founders that members gave other keys", founders, true, roster("a", "b", "c"), map[string]voucher{"a": yes, "b": fresh}, true)
}

func vouches(t *testing.T, name string, founders *receipt.Roster, fresh bool, r *receipt.Roster, by map[string]voucher, enough bool) {
	t.Helper()
	n := &newNode(Config{}, Options{}).states
	n.name = "c"
	if founders != nil {
		n.genesis.Roster = *founders
	}
	n.confirmed.fresh = fresh
	if short := n.tooFew(r, by, "roster"); (short == "") != enough {
		t.Errorf("%s: want enough %v, got %q", name, enough, short)
	}
}

// TestRecoveryVouches: the word of one node stands for a majority's where members signed
// that the ledger goes on from its disk, and for nobody else, not later.
func TestRecoveryVouches(t *testing.T) {
	domain := keystead.Sum([]byte("domain"))
	ada, err := key.NewMember(source(1), "ada")
	if err != nil {
		t.Fatal(err)
	}
	eve, err := key.NewMember(source(2), "eve")
	if err != nil {
		t.Fatal(err)
	}
	roster := &receipt.Roster{Threshold: 1, Members: []key.MemberPublic{ada.Public()}}
	n := &newNode(Config{Domain: domain}, Options{}).states
	n.name = "c"
	n.confirmed.had = 40
	note := func(by key.Member, domain keystead.Digest, node string, last uint64) []byte {
		signed, err := by.Sign(Recovery{Domain: domain, Node: node, Term: 3, Last: last}.Text())
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	chain := [][]byte{nil}
	for name, tc := range map[string]struct {
		note   []byte
		signed bool
		index  uint64
		other  voucher
		want   bool
	}{
		"as members signed":           {note(ada, domain, "a", 50), true, 60, voucher{answered: true}, true},
		"signed by no member":         {note(eve, domain, "a", 50), true, 60, voucher{answered: true}, false},
		"of another domain":           {note(ada, keystead.Sum(nil), "a", 50), true, 60, voucher{answered: true}, false},
		"of another node":             {note(ada, domain, "b", 50), true, 60, voucher{answered: true}, false},
		"of long ago":                 {note(ada, domain, "a", 39), true, 60, voucher{answered: true}, false},
		"of a later end than is sent": {note(ada, domain, "a", 61), true, 60, voucher{answered: true}, false},
		"who did not sign":            {note(ada, domain, "a", 50), false, 60, voucher{answered: true}, false},
		"while another has a state":   {note(ada, domain, "a", 50), true, 60, voucher{answered: true, settled: true}, false},
		"while another is silent":     {note(ada, domain, "a", 50), true, 60, voucher{words: "not reached"}, true},
		"another that says the same":  {note(ada, domain, "a", 50), true, 60, voucher{answered: true, settled: true, signed: true}, true},
		"garbage":                     {[]byte("keystead-recovery/1\n"), true, 60, voucher{answered: true}, false},
	} {
		v := voucher{answered: true, signed: tc.signed, recovered: n.openRecovery(tc.note, roster)}
		for had, other := range map[uint64]bool{40: true, 0: tc.other.answered} { // without a state of its own, only if all answer
			n.confirmed.had = had
			want := tc.want && other || had == 0 && name == "of long ago"
			if got := n.recoveredBy(map[string]voucher{"a": v, "b": tc.other}, chain, tc.index); got != want {
				t.Errorf("%s, with a state up to %d: want %v, got %v", name, had, want, got)
			}
		}
	}
	if _, _, err := n.vouchers(nil); !errors.Is(err, keystead.ReasonSnapshotUnproven) {
		t.Errorf("no chain: %v", err)
	}
	if _, _, err := n.vouchers([]byte{0, 0, 0, 3, 1, 1, 1}); !errors.Is(err, keystead.ReasonDomainMismatch) {
		t.Errorf("another genesis: %v", err)
	}
	var format *keystead.FormatError
	if _, _, err := n.vouchers([]byte{0, 0, 9, 9, 1}); !errors.As(err, &format) {
		t.Errorf("garbage: %v", fmt.Sprint(err))
	}
}

// TestOfferedStateIsRemembered: a node that offers its state of now to who joins can sign its
// digest when a position came meanwhile, which is newer: the replica sends what was offered.
func TestOfferedStateIsRemembered(t *testing.T) {
	c := confirmed{own: map[uint64]replica.StateHeader{30: {Index: 30}, 41: {Index: 41}, 42: {Index: 42}}, sent: map[uint64]bool{}}
	out := c.unsent(&ledger.Positions{Kept: []ledger.Position{{Index: 42}}}, "n1")
	if len(out) != 1 || out[0].Index != 42 {
		t.Errorf("handed in: %v", out)
	}
	if _, kept := c.own[41]; !kept || len(c.own) != 2 {
		t.Errorf("of 30, 41 and 42, of which 41 was offered last, it remembers %v", c.own)
	}
}
