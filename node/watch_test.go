package node_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
)

// watched gathers what a node tells until as many events have come.
func (f *field) watched(node string, r *apiv1.WatchHostsRequest, count int) (events []*apiv1.HostEvent, last *apiv1.WatchHostsResponse) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, patience)
	defer cancel()
	err := f.client(node).WatchHosts(ctx, r, func(m *apiv1.WatchHostsResponse) bool {
		events, last = append(events, m.GetEvents()...), m
		return len(events) < count
	})
	if err != nil {
		f.t.Fatalf("%v; told %q", err, words(events))
	}
	return events, last
}

func words(events []*apiv1.HostEvent) (out []string) {
	for _, e := range events {
		out = append(out, e.GetEvent()+" "+e.GetHost())
	}
	return out
}

// TestWatchHosts watches hosts be admitted, renewed, suspended and revoked, and a lease
// run out, from every node, from the first leaf and from the middle.
func TestWatchHosts(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true", "lease-seconds=15")
	good, a := f.admitted("web-1")
	bad, _ := f.admitted("web-2")
	if _, err := good.renew(); err != nil {
		t.Fatal(err)
	}
	bad.goBad()
	if _, err := bad.renew(); err == nil {
		t.Fatal("a bad host is renewed")
	}
	base := f.version(admit.TypeEnrolment, "web-2")
	all := &apiv1.WatchHostsRequest{Renewals: true, AfterMs: 1}
	events, at := f.watched("n1", all, 4)
	if got := words(events[:4]); !slices.Equal(got, []string{"admitted web-1", "admitted web-2", "renewed web-1", "suspended web-2"}) {
		t.Fatalf("%q", got)
	}
	if e := events[0]; e.GetLeaf() != a.GetLeaf() || string(e.GetTransactionId()) != string(a.GetTransactionId()) || e.GetLeaseVersion() != a.GetLease().GetVersion() || e.GetUntilMs() != a.GetLease().GetUntilMs() {
		t.Errorf("%v of %v", e, a)
	}
	if f := events[3].GetBecause().GetFindings(); len(f) != 1 || f[0].GetReason() != string(keystead.ReasonLeaseSuspended) || !strings.Contains(f[0].GetGot(), "suspended by n") {
		t.Errorf("suspended because %v", f)
	}
	f.measures([]string{`keystead_hosts{standing="admitted"} 1`, `keystead_hosts{standing="suspended"} 1`, `keystead_hosts{standing="revoked"} 0`, "keystead_lease_next_expiry_seconds ",
		"keystead_disk_free_bytes ", "keystead_disk_size_bytes ", `keystead_build_info{commit="`}, []string{`keystead_refusals_total{reason="file-altered"} 1`})
	revoke := admit.Enrolment{Domain: f.digest, Host: "web-2", Base: base, Role: admit.RoleHost, EK: bad.ek, Revoked: true}
	text, err := revoke.Text()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.decree(admit.TypeEnrolment, "web-2", text); err != nil {
		t.Fatal(err)
	}
	more, _ := f.watched("n2", &apiv1.WatchHostsRequest{From: at.GetNext(), AfterMs: at.GetClockMs()}, 2) // another node goes on
	if got := words(more); !slices.Equal(got, []string{"revoked web-2", "expired web-1"}) {
		t.Errorf("%q", got)
	}
	if e := more[len(more)-1]; e.GetLeaseVersion() != a.GetLease().GetVersion() || e.GetTimeMs() <= a.GetLease().GetUntilMs() || e.GetBecause().GetFindings()[0].GetReason() != string(keystead.ReasonLeaseExpired) {
		t.Errorf("%v", e)
	}
	var ids []string
	for _, node := range []string{"n1", "n2", "n3"} {
		events, _ := f.watched(node, all, 6)
		var own []string
		for _, e := range events {
			own = append(own, e.GetId())
		}
		if ids == nil {
			ids = own
		}
		if !slices.Equal(own, ids) || len(own) != 6 {
			t.Errorf("%s tells %q, another %q", node, own, ids)
		}
	}
	if events, _ := f.watched("n3", &apiv1.WatchHostsRequest{Prefix: "web-2", AfterMs: 1}, 3); !slices.Equal(words(events), []string{"admitted web-2", "suspended web-2", "revoked web-2"}) {
		t.Errorf("%q", words(events))
	}
	err = f.client("n1").WatchHosts(f.ctx, &apiv1.WatchHostsRequest{From: 1 << 40}, func(*apiv1.WatchHostsResponse) bool { return true })
	if !errors.Is(err, keystead.ReasonLeafFuture) {
		t.Errorf("from a leaf of the future: %v", err)
	}
	quiet, cancel := context.WithTimeout(f.ctx, time.Second)
	defer cancel()
	err = f.client("n1").WatchHosts(quiet, &apiv1.WatchHostsRequest{Live: true}, func(m *apiv1.WatchHostsResponse) bool {
		if len(m.GetEvents()) > 0 {
			t.Errorf("who begins now is told %v", m)
		}
		return true
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
