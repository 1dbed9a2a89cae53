package node_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/key"
)

// otherTerms are the founding terms for hosts, changed, as a text for this domain.
func (f *field) otherTerms(change func(*admit.Terms)) []byte {
	f.t.Helper()
	for _, o := range f.objects {
		t, err := admit.ParseTerms(o)
		if err != nil || t.Role != admit.RoleHost {
			continue
		}
		t.Domain = f.digest
		change(&t)
		text, err := t.Text()
		if err != nil {
			f.t.Fatal(err)
		}
		return text
	}
	f.t.Fatal("no terms for hosts")
	return nil
}

// TestPlanOfTerms asks what a forgotten code set would do, as a reader of the archive: the nodes say
// which hosts fall out, and change nothing. Nobody else learns it, nor by a reading of anything else,
// and a reading for a plan opens no archived record.
func TestPlanOfTerms(t *testing.T) {
	t.Parallel()
	f := newField(t, 3, "trust-disks=true")
	_, a := f.admitted("web-1")
	_, b := f.admitted("web-2")
	f.archivedByAll(a)
	f.archivedByAll(b)
	forgotten := f.otherTerms(func(t *admit.Terms) { t.CodeSets = nil })
	subject := keystead.Sum(forgotten)
	refused := func(what string, reason keystead.Reason, text, signed []byte) {
		t.Helper()
		for _, p := range f.nodes {
			if plan, err := f.client(p.place.Name).PlanTerms(f.ctx, text, signed); !errors.Is(err, reason) {
				t.Errorf("%s, at %s: %v, %v", what, p.place.Name, plan, err)
			}
		}
	}
	refused("before anybody is named", keystead.ReasonReaderUnnamed, forgotten, f.reading(subject, time.Minute, f.member))
	if err := f.set(admit.ArchiveReaders, 1, f.member.Public().Name()); err != nil {
		t.Fatal(err)
	}
	stranger, err := key.NewMember(rand.Reader, f.member.Public().Name())
	if err != nil {
		t.Fatal(err)
	}
	id := keystead.Digest(a.GetTransactionId())
	refused("by a stranger of that name", keystead.ReasonNoteUnsigned, forgotten, f.reading(subject, time.Minute, stranger))
	refused("not signed", keystead.ReasonNoteUnsigned, forgotten, f.reading(subject, time.Minute))
	refused("by a reading of an admission", keystead.ReasonSubjectMismatch, forgotten, f.reading(id, time.Minute, f.member))
	refused("of other terms", keystead.ReasonSubjectMismatch, f.otherTerms(func(*admit.Terms) {}), f.reading(subject, time.Minute, f.member))
	refused("after its time", keystead.ReasonRequestExpired, forgotten, f.reading(subject, 0, f.member))
	refused("good for too long", keystead.ReasonRequestExpired, forgotten, f.reading(subject, 48*time.Hour, f.member))
	signed := f.reading(subject, time.Minute, f.member)
	if _, err := f.client("").ReadArchive(f.ctx, a.GetLeaf(), signed); !errors.Is(err, keystead.ReasonSubjectMismatch) {
		t.Errorf("a record, by a reading for a plan: %v", err)
	}
	if f.noted(signed) {
		t.Error("what was refused is on the ledger as asked")
	}

	plan, err := f.client("").PlanTerms(f.ctx, forgotten, signed)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Hosts) != 2 || len(plan.Asked) < 2 {
		t.Fatalf("the plan is %+v", plan)
	}
	for i, name := range []string{"web-1", "web-2"} {
		h := plan.Hosts[i]
		if h.Name != name || h.Outcome != client.FallsOut || !errors.Is(h.Because, keystead.ReasonBootUnaccepted) || h.Evidence == 0 || h.Evidence > plan.Clock || h.From != 0 || h.Said != len(plan.Asked) {
			t.Errorf("%+v", h)
		}
	}
	if !f.noted(signed) {
		t.Error("that it was asked is not on the ledger")
	}
	page, err := f.hostService(0).PlanTerms(f.ctx, connect.NewRequest(&apiv1.PlanTermsRequest{Terms: forgotten, Reading: signed, After: "web-1"}))
	if err != nil || len(page.Msg.GetHosts()) != 1 || page.Msg.GetHosts()[0].GetName() != "web-2" || page.Msg.GetMore() {
		t.Errorf("the page after web-1: %v, %v", page, refusal.Decode(err))
	}
	if f.version(admit.TypeTerms, admit.RoleHost) != 0 {
		t.Error("a plan changed the terms")
	}

	ends := f.otherTerms(func(t *admit.Terms) {
		t.Until = map[keystead.Digest]time.Time{t.CodeSets[0]: time.Now().Add(time.Hour).UTC().Truncate(time.Second)}
	})
	plan, err = f.client("").PlanTerms(f.ctx, ends, f.reading(keystead.Sum(ends), time.Minute, f.member))
	if err != nil || plan.Hosts[0].Outcome != client.FallsOut || !errors.Is(plan.Hosts[0].Because, keystead.ReasonGraceEnded) || plan.Hosts[0].From < plan.Clock {
		t.Errorf("a set up to a time: %+v, %v", plan, err)
	}
	f.planWithout(a, forgotten, subject)
}

// planWithout asks when one node's archive is damaged, and then when nodes are down.
func (f *field) planWithout(a *apiv1.AdmitResponse, text []byte, subject keystead.Digest) {
	t := f.t
	t.Helper()
	record, label := f.archivedBy(2, a)
	for _, path := range []string{record, label} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	plan, err := f.client("").PlanTerms(f.ctx, text, f.reading(subject, time.Minute, f.member))
	if err != nil || plan.Hosts[0].Outcome != client.FallsOut || plan.Hosts[0].Known != len(plan.Asked)-1 || plan.Hosts[1].Known != len(plan.Asked) {
		t.Errorf("one node has lost the evidence: %+v, %v", plan, err)
	}
	_ = f.end(2, syscall.SIGKILL)
	if plan, err = f.client("").PlanTerms(f.ctx, text, f.reading(subject, time.Minute, f.member)); err != nil || strings.Join(plan.Asked, " ") != "n1 n2" {
		t.Errorf("with one node down: %+v, %v", plan, err)
	}
	signed := f.reading(subject, time.Minute, f.member)
	_ = f.end(1, syscall.SIGKILL)
	ctx, cancel := context.WithTimeout(f.ctx, 3*time.Second)
	defer cancel()
	if plan, err := f.client("").PlanTerms(ctx, text, signed); err == nil {
		t.Errorf("with two nodes down: %+v", plan)
	}
}

// noted reports whether the ledger says that a plan was asked for by a reading, without a signature.
func (f *field) noted(signed []byte) bool {
	f.t.Helper()
	text, _, err := key.Peek(signed)
	if err != nil {
		f.t.Fatal(err)
	}
	d := keystead.Sum(text)
	r, err := f.client("").Read(f.ctx, true, "archive/plan/"+d.String()[len("sha256:"):])
	if err != nil {
		f.t.Fatal(err)
	}
	v := r.GetValues()[0]
	if v.GetVersion() > 0 && string(v.GetValue()) != string(text)+"signed-by "+f.member.Public().Name()+"\n" {
		f.t.Errorf("the ledger has %q", v.GetValue())
	}
	return v.GetVersion() > 0
}

// hostService speaks to a node as anybody does.
func (f *field) hostService(i int) apiv1connect.HostServiceClient {
	f.t.Helper()
	to, err := client.OpenContact(f.file.Contacts[i])
	if err != nil {
		f.t.Fatal(err)
	}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: client.PinnedTLS(to.TLS, nil), ForceAttemptHTTP2: true}}
	return apiv1connect.NewHostServiceClient(h, to.API)
}
