package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// LeaseOf returns the lease of the host that asks and the claims of the verdict on it, as
// of a state and its domain clock in Unix milliseconds.
type LeaseOf func(v ledger.View, clock uint64) (keyring.Lease, evidence.Claims, error)

// leaseOf finds the lease of a host that speaks over a connection, and the claims of the
// verdict on its newest evidence: that of its admission, or of its last renewal.
func (n *Node) leaseOf(from part.Caller, host string) LeaseOf {
	return func(v ledger.View, _ uint64) (keyring.Lease, evidence.Claims, error) {
		var verdict struct {
			Claims evidence.Claims `json:"claims"`
		}
		if err := speaksFor(v, from, host); err != nil {
			return nil, verdict.Claims, err
		}
		lease, err := admit.Current(v, host)
		if err != nil {
			return nil, verdict.Claims, err
		}
		if lease.Renewed() != 0 {
			b, here := n.verdicts.get(lease.Verdict())
			if !here {
				return lease, verdict.Claims, verdictMissing(host, lease.Verdict())
			}
			err := json.Unmarshal(b, &verdict)
			return lease, verdict.Claims, err
		}
		x, err := v.Judged(admit.VerdictKey(host))
		if err == nil && x.Version != lease.Version() {
			err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseUnknown, Where: "verdict on " + host, Want: fmt.Sprintf("version %d, of the lease", lease.Version()), Got: fmt.Sprint(x.Version)})
		}
		if err == nil {
			err = json.Unmarshal(x.Data, &verdict)
		}
		return lease, verdict.Claims, err
	}
}

// ReleaseKey gives a version of an agreed key, 0 for the newest, to whom its lease and the
// key's specification allow it. Lease looks up the lease of who asks. Nothing is granted
// without a majority's word that the state is the one of now (ReadIndex), nor while the
// clock is stale.
func (n *Node) ReleaseKey(ctx context.Context, key string, version uint64, app keyring.Application, lease LeaseOf) (keyring.Grant, error) {
	if err := n.mayGrant(ctx); err != nil {
		return keyring.Grant{}, err
	}
	if at := n.keys.standing(); !in(&at.Roster, n.name) {
		return keyring.Grant{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "release", Want: "a node of the roster", Got: n.name})
	}
	if _, err := n.signer(); err != nil {
		return keyring.Grant{}, err
	}
	var grant keyring.Grant
	err := n.snapshot(func(v ledger.View) error {
		clock, err := v.Clock()
		if err != nil {
			return err
		}
		ask := keyring.Ask{Key: key, Version: version, Application: app}
		if ask.Lease, ask.Claims, err = lease(v, clock); err != nil {
			return err
		}
		grant, err = n.keys.keyring.Release(onLedger{v}, &ask, clock)
		return err
	})
	return grant, err
}

// in reports whether the roster names the node.
func in(r *receipt.Roster, name string) bool {
	_, ok := r.Node(name)
	return ok
}

// maxRecalls is how often a release starts over because the host was renewed meanwhile.
const maxRecalls = 2

// Release implements serve.Keys.
func (n *Node) Release(ctx context.Context, r *apiv1.ReleaseRequest) (*apiv1.ReleaseResponse, error) {
	from := part.CallerOf(ctx)
	lease, recall := n.leaseOf(from, r.GetHost()), func() error { return n.recall(ctx, from, r.GetHost()) }
	if n.opts.Lease != nil {
		lease, recall = n.opts.Lease(r.GetHost()), func() error { return nil }
	}
	a := r.GetApplication()
	app := keyring.Application{Level: a.GetLevel(), Path: a.GetPath(), Digest: a.GetDigest(), UID: int64(a.GetUid())}
	var g keyring.Grant
	for try := 0; ; try++ {
		err := recall()
		if err == nil {
			g, err = n.ReleaseKey(ctx, r.GetKey(), r.GetVersion(), app, lease)
		}
		if errors.Is(err, keystead.ReasonObjectMissing) && try < maxRecalls {
			continue // renewed in between, or a moment ago
		}
		if err != nil {
			return nil, err
		}
		break
	}
	return &apiv1.ReleaseResponse{Secret: g.Secret().Encode(), Version: g.Version(), HoldMs: uint64(g.Hold().Milliseconds())}, nil
}

// maxVersions is how many versions of a key a list shows, the newest.
const maxVersions = 64

// ListKeys implements serve.Keys: what is known of agreed keys, never their content.
func (n *Node) ListKeys(ctx context.Context, prefix string) (*apiv1.ListKeysResponse, error) {
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
			k.Versions = append(k.Versions, &apiv1.KeyVersion{Version: i, Epoch: v.Epoch, Confirm: v.Confirm.String(), Leaf: at - 1})
		}
	}
	return k, nil
}
