package node

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// releasing hands out agreed keys, to whom their leases and the keys' specifications allow it.
type releasing struct {
	*guard
	keys   *agreement
	leases part.Leases
	test   func(host string) (keyring.Lease, evidence.Claims) // of nodes that tests run; nil elsewhere
}

// Release implements serve.Keys. Nothing is granted without a majority's word that the state is
// the one of now (ReadIndex), nor while the clock is stale.
func (n *releasing) Release(ctx context.Context, r *apiv1.ReleaseRequest) (*apiv1.ReleaseResponse, error) {
	a := r.GetApplication()
	ask := keyring.Ask{Key: r.GetKey(), Version: r.GetVersion(), Application: keyring.Application{Level: a.GetLevel(), Path: a.GetPath(), Digest: a.GetDigest(), UID: int64(a.GetUid())}}
	if ask.Application.Level == keyring.LevelMeasured || ask.Application.Level == keyring.LevelLaunched {
		ask.Application.Level = keyring.LevelPeer // more is for statements alone (app/appnode)
	}
	var grant keyring.Grant
	release := func(v ledger.View, clock uint64) (err error) {
		grant, err = n.grant(v, &ask, clock)
		return err
	}
	var err error
	if n.test != nil {
		ask.Lease, ask.Claims = n.test(r.GetHost())
		err = n.releaseTest(ctx, release)
	} else {
		err = n.leases.Evidence(ctx, part.CallerOf(ctx), r.GetHost(), func(v ledger.View, g *part.Granted) error {
			ask.Lease, ask.Claims = g.Lease, g.Claims
			return release(v, g.Clock)
		})
	}
	if err != nil {
		return nil, err
	}
	return &apiv1.ReleaseResponse{Secret: grant.Secret().Encode(), Version: grant.Version(), HoldMs: uint64(grant.Hold().Milliseconds())}, nil
}

// grant decides on a key, while this node may.
func (n *releasing) grant(v ledger.View, ask *keyring.Ask, clock uint64) (none keyring.Grant, err error) {
	if at := n.keys.standing(); !in(&at.Roster, n.name) {
		return none, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "release", Want: "a node of the roster", Got: n.name})
	}
	if _, err := n.signer(); err != nil {
		return none, err
	}
	return n.keys.keyring.Release(onLedger{v}, ask, clock)
}

// releaseTest releases for a lease of a test's making.
func (n *releasing) releaseTest(ctx context.Context, release func(ledger.View, uint64) error) error {
	if err := n.mayGrant(ctx); err != nil {
		return err
	}
	return n.snapshot(func(v ledger.View) error {
		clock, err := v.Clock()
		if err != nil {
			return err
		}
		return release(v, clock)
	})
}

// in reports whether the roster names the node.
func in(r *receipt.Roster, name string) bool {
	_, ok := r.Node(name)
	return ok
}

// maxVersions is how many versions of a key a list shows, the newest.
const maxVersions = 64

// ListKeys implements serve.Keys: what is known of agreed keys, never their content.
func (n *releasing) ListKeys(ctx context.Context, prefix string) (*apiv1.ListKeysResponse, error) {
	out := &apiv1.ListKeysResponse{}
	err := n.View(ctx, true, func(v ledger.View) error {
		st := onLedger{v}
		now, err := keyring.Current(st)
		if err != nil {
			return err
		}
		out.Epoch, out.EpochNodes = now.Number, now.Nodes()
		var failed error
		err = v.JudgedKeys(keyring.KeyspecType+"/"+prefix, "", func(key string, value ledger.Value) bool {
			var k *apiv1.Key
			if k, failed = listKey(st, strings.TrimPrefix(key, keyring.KeyspecType+"/"), value); failed == nil {
				failed = part.Spend(ctx, proto.Size(k))
			}
			if failed == nil {
				out.Keys = append(out.Keys, k)
			}
			return failed == nil
		})
		if err == nil {
			err = failed
		}
		return err
	})
	return out, err
}

func listKey(st onLedger, name string, text ledger.Value) (*apiv1.Key, error) {
	spec, err := keyring.ParseSpec(text.Data)
	if err != nil {
		return nil, err
	}
	newest, err := keyring.Newest(st, name)
	if err != nil {
		return nil, err
	}
	k := &apiv1.Key{Name: name, Version: newest.Number, Wanted: spec.Version, SpecVersion: text.Version, Policy: string(spec.Policy), Specification: string(text.Data)}
	first := uint64(1)
	if newest.Number > maxVersions {
		first = newest.Number - maxVersions + 1
	}
	for i := first; i <= newest.Number; i++ {
		v, at, err := keyring.At(st, name, i)
		if err != nil {
			return nil, err
		}
		if at > 0 {
			k.Versions = append(k.Versions, &apiv1.KeyVersion{Version: i, Epoch: v.Epoch, Confirm: v.Confirm.String(), Leaf: at - 1, Public: v.Public})
		}
	}
	return k, nil
}
