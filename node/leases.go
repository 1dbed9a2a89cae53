package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/part"
)

// leases is the one way to a grant: who asks is the host, by the hardware that its connection
// showed, and has a lease now, by the state that a majority says is the newest.
type leases struct{ *admission }

var _ part.Leases = leases{}

// maxRecalls is how often a grant starts over because the host was renewed meanwhile.
const maxRecalls = 2

// Evidence implements part.Leases.
func (l leases) Evidence(ctx context.Context, from part.Caller, host string, grant func(ledger.View, *part.Granted) error) error {
	for try := 0; ; try++ {
		err := l.recall(ctx, from, host)
		if err == nil {
			err = l.Lease(ctx, from, host, func(v ledger.View, g *part.Granted) (err error) {
				if g.Claims, err = l.claims(v, g.Lease); err != nil {
					return err
				}
				return grant(v, g)
			})
		}
		if errors.Is(err, keystead.ReasonObjectMissing) && try < maxRecalls {
			continue // renewed in between, or a moment ago
		}
		return err
	}
}

// Lease implements part.Leases.
func (l leases) Lease(ctx context.Context, from part.Caller, host string, grant func(ledger.View, *part.Granted) error) error {
	if err := l.mayGrant(ctx); err != nil {
		return err
	}
	return l.snapshot(func(v ledger.View) error {
		if err := speaksFor(v, from, host); err != nil {
			return err
		}
		clock, err := v.Clock()
		if err != nil {
			return err
		}
		lease, err := admit.Current(v, host)
		if err != nil {
			return err
		}
		return grant(v, &part.Granted{Lease: lease, Clock: clock})
	})
}

// claims returns those of the verdict on a host's newest evidence: that of its admission, or of
// its last renewal.
func (l leases) claims(v ledger.View, lease admit.Lease) (evidence.Claims, error) {
	var verdict struct {
		Claims evidence.Claims `json:"claims"`
	}
	host := lease.Host()
	if lease.Renewed() != 0 {
		b, here := l.verdicts.get(lease.Verdict())
		if !here {
			return verdict.Claims, verdictMissing(host, lease.Verdict())
		}
		err := json.Unmarshal(b, &verdict)
		return verdict.Claims, err
	}
	x, err := v.Judged(admit.VerdictKey(host))
	if err == nil && x.Version != lease.Version() {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonLeaseUnknown, Where: "verdict on " + host, Want: fmt.Sprintf("version %d, of the lease", lease.Version()), Got: fmt.Sprint(x.Version)})
	}
	if err == nil {
		err = json.Unmarshal(x.Data, &verdict)
	}
	return verdict.Claims, err
}
